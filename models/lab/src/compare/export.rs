//! A linear model as a folder that the service runs.
//!
//! Its scores are made probabilities by one temperature (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
//! Networks", 2017: Platt scaling with one parameter for all labels): softmax of the scores over the temperature that makes the
//! truth of the training posts most likely, judged by the models of the inner folds, which did not see them. It changes no label,
//! so the figures of the comparison are those of the folder.

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
    Learnt, Report, features,
    linear::Linear,
    parts::Parts,
    trained::{Kind, Model, Trained},
};
use crate::{
    export::folder::{MANIFEST, Staging},
    metrics,
    thresholds::fit,
};

/// A folder to be written once the models are trained.
pub(super) struct Export {
    kind: Kind,
    name: String,
    staging: Staging,
}

/// The temperature, and what it does to the calibration error.
struct Calibration {
    temperature: f64,
    /// On the test part, without a temperature and with it.
    errors: [f64; 2],
}

impl Export {
    /// Begins the folder `out`, before anything is trained: what can't be written is known at once.
    ///
    /// # Errors
    ///
    /// When the model is not one that is served, or the folder can't be written.
    pub(super) fn begin(kind: Kind, out: &Path) -> anyhow::Result<Self> {
        ensure!(
            matches!(kind, Kind::Lr | Kind::Svc | Kind::Bayes),
            "--export {}: of the classical models the linear ones are served: lr, svc or bayes",
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
    /// When a file can't be written; nothing is left then.
    pub(super) fn write(self, learnt: &Learnt, parts: &Parts, report: &Report) -> anyhow::Result<()> {
        let trained = learnt.candidates.iter().find(|trained| trained.kind == self.kind);
        let Some(Trained {
            model: Model::Linear(linear),
            unseen,
            ..
        }) = trained
        else {
            bail!("{} was not trained", self.kind.name());
        };
        let model = served(&learnt.vectorizer, linear)?;
        let calibration = calibrate(&learnt.vectorizer, linear, unseen, parts);
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

fn calibrate(vectorizer: &Vectorizer, linear: &Linear, unseen: &[Vec<f64>], parts: &Parts) -> Calibration {
    let truth: Vec<usize> = parts.train.iter().map(|post| post.class).collect();
    // The service reads four digits, as the manifest has them.
    let temperature = (fit::temperature_of_logits(unseen, &truth) * 10_000.0).round() / 10_000.0;
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
    let judged = report.models.iter().find(|model| model.name == kind.name());
    let judged = judged.with_context(|| format!("{} was not judged", kind.name()))?;
    let (data, test) = (&report.data, &judged.test);
    let what = match kind {
        Kind::Lr => "Multinomial logistic regression",
        Kind::Svc => "A linear support vector machine, one label against all others,",
        _ => "Multinomial naive Bayes",
    };
    let setting = judged.settings.map_or(String::new(), |chosen| {
        let c = chosen.c.map(|c| format!("C = {c}"));
        let smoothing = chosen.smoothing.map(|smoothing| format!("smoothing {smoothing}"));
        c.or(smoothing).unwrap_or_default()
    });
    let mut card = format!(
        "# {name}\n\n\
         {what} over TF-IDF of word 1-2-grams and character 2-5-grams ({} of them), for posts in English cleaned by the \
         profile `classical`. Tuned by inner folds: {setting}. Labels: {}.\n\n\
         Made by `moodstream-lab compare --export {}` of {} posts from {} (seed {}). It may be used as the licences of these \
         posts allow.\n\n\
         ## Figures\n\n\
         On {} posts of the test part, none of them near to one that it was trained on.\n\n\
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
