//! Writes a linear model as a folder for the service.
//!
//! Its scores are calibrated with one temperature (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
//! Networks", 2017: Platt scaling with one parameter for all labels): the softmax of the scores over the temperature that makes
//! the true labels of the training posts most likely, given their out-of-fold scores. It changes no label, so the figures of
//! the comparison are those of the folder.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::{Context as _, bail, ensure};
use moodstream::{
    clean::Profile,
    model::{
        ProblemType,
        linear::{FILE, LinearModel, MODEL_TYPE, Vectorizer},
    },
};

use super::{
    Fitted, Report, features,
    linear::Linear,
    parts::Parts,
    trained::{Kind, Model, Trained},
};
use crate::{
    export::folder::{MANIFEST, Staging},
    metrics,
    thresholds::fit,
};

/// A folder that is written after training.
pub(super) struct Export {
    kind: Kind,
    name: String,
    staging: Staging,
}

/// The temperature and its effect on the calibration error.
struct Calibration {
    temperature: f64,
    /// The calibration error on the test part without and with the temperature.
    errors: [f64; 2],
}

impl Export {
    /// Creates the folder before training, so that an error is reported at once.
    ///
    /// # Errors
    ///
    /// When the service can't run this kind of model, or the folder can't be written.
    pub(super) fn begin(kind: Kind, out: &Path) -> anyhow::Result<Self> {
        ensure!(
            matches!(kind, Kind::Lr | Kind::Svc | Kind::Bayes),
            "--export {}: only the linear models can be served: lr, svc or bayes",
            kind.name()
        );
        let staging = Staging::begin(out)?;
        let name = out.file_name().map(|name| name.to_string_lossy().replace('@', "-"));
        let name = name.with_context(|| format!("{}: --out must name a folder", out.display()))?;
        Ok(Self { kind, name, staging })
    }

    /// Writes the folder.
    ///
    /// # Errors
    ///
    /// When a file can't be written. Nothing is left behind then.
    pub(super) fn write(self, fitted: &Fitted, parts: &Parts, report: &Report) -> anyhow::Result<()> {
        let trained = fitted.candidates.iter().find(|trained| trained.kind == self.kind);
        let Some(Trained {
            model: Model::Linear(linear),
            out_of_fold,
            ..
        }) = trained
        else {
            bail!("{} was not trained", self.kind.name());
        };
        let model = served(&fitted.vectorizer, linear)?;
        let calibration = calibrate(&fitted.vectorizer, linear, out_of_fold, parts);
        let config = serde_json::json!({
            "model_type": MODEL_TYPE,
            "problem_type": ProblemType::SingleLabelClassification.as_str(),
            "id2label": parts.labels.iter().enumerate().map(|(at, label)| (at.to_string(), label)).collect::<BTreeMap<_, _>>(),
        });
        let mut manifest = toml::Table::new();
        manifest.insert("name".to_owned(), self.name.clone().into());
        manifest.insert("profile".to_owned(), Profile::Classical.name().into());
        manifest.insert("temperature".to_owned(), calibration.temperature.into());
        let card = card(&self.name, self.kind, &calibration, report)?;
        let staging = &self.staging;
        staging.write("config.json", serde_json::to_string_pretty(&config)?.as_bytes())?;
        staging.write(MANIFEST, toml::to_string(&manifest)?.as_bytes())?;
        staging.write(FILE, &model.to_bytes()?)?;
        staging.write("README.md", card.as_bytes())?;
        Ok(self.staging.publish()?)
    }
}

/// The model with its weights in single precision.
fn served(vectorizer: &Vectorizer, linear: &Linear) -> anyhow::Result<LinearModel> {
    let classes = linear.classes();
    let weights: Vec<f32> = (0..linear.features())
        .flat_map(|feature| (0..classes).map(move |class| linear.weight(feature, class) as f32))
        .collect();
    let intercepts = (0..classes).map(|class| linear.intercept(class) as f32).collect();
    LinearModel::new(vectorizer.clone(), &weights, intercepts).context("the model has no labels")
}

fn calibrate(vectorizer: &Vectorizer, linear: &Linear, out_of_fold: &[Vec<f64>], parts: &Parts) -> Calibration {
    let truth: Vec<usize> = parts.train.iter().map(|post| post.class).collect();
    // Rounded to the four decimals of the manifest.
    let temperature = (fit::temperature_of_logits(out_of_fold, &truth) * 10_000.0).round() / 10_000.0;
    let texts: Vec<&str> = parts.test.iter().map(|post| post.cleaned.as_str()).collect();
    let scores = linear.all_scores(&features::rows(vectorizer, &texts));
    let error = |temperature: f64| {
        let (confidence, right): (Vec<f64>, Vec<bool>) = scores
            .iter()
            .zip(&parts.test)
            .map(|(scores, post)| {
                let (class, chance) = most_likely(scores, temperature);
                (chance, class == post.class)
            })
            .unzip();
        metrics::calibration_error(&confidence, &right)
    };
    Calibration {
        temperature,
        errors: [error(1.0), error(temperature)],
    }
}

/// The class with the highest score, and its probability.
fn most_likely(scores: &[f64], temperature: f64) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (class, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (class, score);
        }
    }
    let all: f64 = scores.iter().map(|score| ((score - best.1) / temperature).exp()).sum();
    (best.0, all.recip())
}

/// The model card.
fn card(name: &str, kind: Kind, calibration: &Calibration, report: &Report) -> anyhow::Result<String> {
    let model = report.models.iter().find(|model| model.name == kind.name());
    let model = model.with_context(|| format!("{} was not evaluated", kind.name()))?;
    let (data, test) = (&report.data, &model.test);
    let what = match kind {
        Kind::Lr => "Multinomial logistic regression",
        Kind::Svc => "A linear support vector machine, one label against all others,",
        _ => "Multinomial naive Bayes",
    };
    let setting = model.settings.map_or(String::new(), |chosen| {
        let c = chosen.c.map(|c| format!("C = {c}"));
        let smoothing = chosen.smoothing.map(|smoothing| format!("smoothing {smoothing}"));
        c.or(smoothing).unwrap_or_default()
    });
    let mut card = format!(
        "# {name}\n\n\
         {what} over TF-IDF of word 1-2-grams and character 2-5-grams ({} of them), for posts in English cleaned by the \
         profile `classical`. Tuned by inner folds: {setting}. Labels: {}.\n\n\
         Made by `moodstream-lab compare --export {}` of {} posts from {} (seed {}). The licences of these posts \
         apply.\n\n\
         ## Figures\n\n\
         On the {} posts of the test part, which has no near duplicates of training posts.\n\n\
         | figure | value |\n|---|---|\n",
        data.features,
        data.labels.join(", "),
        kind.name(),
        data.train_posts,
        data.train.join(", "),
        data.seed,
        data.test_posts,
    );
    let interval = test.macro_f1_interval;
    for (figure, value) in [
        ("accuracy", format!("{:.4}", test.accuracy)),
        (
            "macro-F1",
            format!(
                "{:.4} (95 %: {:.4} to {:.4})",
                test.macro_f1, interval.low, interval.high
            ),
        ),
        ("weighted F1", format!("{:.4}", test.weighted_f1)),
        (
            "calibration error",
            format!(
                "{:.4}, without the temperature {:.4}",
                calibration.errors[1], calibration.errors[0]
            ),
        ),
    ] {
        // Writing to a string can't fail.
        let _ = writeln!(card, "| {figure} | {value} |");
    }
    let _ = write!(
        card,
        "\nScores are softmax over the temperature {}, fitted to out-of-fold scores of the training posts (temperature \
         scaling, Guo et al. 2017).\n\n\
         | label | posts | precision | recall | F1 |\n|---|---|---|---|---|\n",
        calibration.temperature
    );
    for class in &test.classes {
        let _ = writeln!(
            card,
            "| {} | {} | {:.4} | {:.4} | {:.4} |",
            class.label, class.support, class.precision, class.recall, class.f1
        );
    }
    Ok(card)
}
