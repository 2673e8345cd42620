//! A teacher: a model folder whose scores of the training posts are learned.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use moodstream::{
    classify::ClassifyOptions,
    model::{ModelFolder, ModelOptions, ProblemType},
};
use safetensors::SafeTensors;
use xxhash_rust::xxh3::Xxh3Default;

use crate::{
    checkpoint::{le_bytes, write_tensors},
    encoder::Loss,
    evaluate::Server,
};

/// Posts that are scored and saved together: a kill loses the work on at most this many.
const PART: usize = 4_096;

/// The tensor of a part's scores.
const SCORES: &str = "scores";

/// A model folder, loaded into the service's classifier.
pub(super) struct Teacher {
    id: String,
    server: Server,
    /// The position of each of the student's labels among the teacher's.
    places: Vec<usize>,
}

/// Opens a model folder as the service does.
///
/// # Errors
///
/// When it can't be read.
pub(super) fn open_folder(folder: &Path) -> Result<ModelFolder> {
    Ok(ModelFolder::open(folder, &ModelOptions::default())?)
}

impl Teacher {
    /// Loads the teacher in `folder` for a student of these labels with a head for `loss`.
    ///
    /// # Errors
    ///
    /// When its labels are others or its head is of another kind, or it can't be started.
    pub(super) fn start(folder: &Path, labels: &[String], loss: Loss, threads: usize) -> Result<Self> {
        let model = open_folder(folder)?;
        let info = model.info();
        let (kind, other) = match info.problem_type {
            ProblemType::SingleLabelClassification => (Loss::Softmax, "softmax"),
            ProblemType::MultiLabelClassification => (Loss::Sigmoid, "sigmoid"),
        };
        ensure!(
            kind == loss,
            "--teacher {}: it has a {other} head ({}): give --head {other}, or another teacher",
            folder.display(),
            info.problem_type
        );
        let teachers: Vec<&str> = info.labels.iter().map(|label| &**label).collect();
        let places = places(&teachers, labels).with_context(|| format!("--teacher {}", folder.display()))?;
        let options = ClassifyOptions {
            sessions: threads,
            ..ClassifyOptions::default()
        };
        Ok(Self {
            id: info.id.to_string(),
            server: Server::start(&model, &options)?,
            places,
        })
    }

    /// The scores of raw texts, in the order of the student's labels. They are saved in the folder `work`, so that a run that is
    /// resumed doesn't compute them again.
    ///
    /// # Errors
    ///
    /// When the model fails on a text, or a file can't be read or written.
    pub(super) fn scores(&self, texts: &[&str], work: &Path) -> Result<Vec<Vec<f64>>> {
        let mut scores = Vec::with_capacity(texts.len());
        for part in texts.chunks(PART) {
            let file = work.join(format!("teacher-{:016x}.safetensors", self.hash(part)));
            if !file.exists() {
                write_tensors(&[self.score(part)?], &file)?;
                eprintln!("teacher: {} of {} posts scored", scores.len() + part.len(), texts.len());
            }
            self.read(&file, part.len(), &mut scores)
                .with_context(|| format!("{}: damaged; remove it", file.display()))?;
        }
        Ok(scores)
    }

    /// A hash of the teacher and texts.
    fn hash(&self, texts: &[&str]) -> u64 {
        let mut hash = Xxh3Default::new();
        for text in texts.iter().copied().chain([self.id.as_str()]) {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.digest()
    }

    /// The scores of texts, in the order of the teacher's labels, as a tensor.
    fn score(&self, texts: &[&str]) -> Result<(String, Vec<usize>, Vec<u8>)> {
        let mut scores = Vec::with_capacity(texts.len() * self.places.len());
        for (answer, text) in self.server.classify(texts.iter().copied())?.into_iter().zip(texts) {
            let prediction = answer.with_context(|| format!("the teacher failed on the post `{text}`"))?;
            // Scores are multiples of 2^-20, so single precision is exact.
            scores.extend(prediction.scores.iter().map(|&score| score as f32));
        }
        Ok((
            SCORES.to_owned(),
            vec![texts.len(), self.places.len()],
            le_bytes(&scores),
        ))
    }

    /// Appends the scores of `posts` posts in a file.
    fn read(&self, file: &Path, posts: usize, scores: &mut Vec<Vec<f64>>) -> Result<()> {
        let (bytes, labels) = (fs::read(file)?, self.places.len());
        let tensors = SafeTensors::deserialize(&bytes)?;
        let tensor = tensors.tensor(SCORES)?;
        ensure!(tensor.shape() == [posts, labels], "its shape is {:?}", tensor.shape());
        for row in tensor.data().chunks_exact(4 * labels) {
            let score = |place: &usize| {
                let bytes = &row[4 * place..][..4];
                f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            };
            scores.push(self.places.iter().map(score).collect());
        }
        Ok(())
    }
}

/// The position of each of the student's labels among the teacher's, which must be the same labels in any order.
fn places(teacher: &[&str], student: &[String]) -> Result<Vec<usize>> {
    let list = |labels: Vec<&str>| {
        labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let lacking: Vec<&str> = student
        .iter()
        .map(String::as_str)
        .filter(|label| !teacher.contains(label))
        .collect();
    ensure!(
        lacking.is_empty(),
        "it lacks labels of the training posts: {}",
        list(lacking)
    );
    let beyond: Vec<&str> = teacher
        .iter()
        .copied()
        .filter(|label| !student.iter().any(|known| known == label))
        .collect();
    ensure!(
        beyond.is_empty(),
        "it has labels that no training post has: {}",
        list(beyond)
    );
    Ok(student
        .iter()
        .filter_map(|label| teacher.iter().position(|known| known == label))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::linear_model;

    fn names(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn labels_are_matched_by_name() {
        let found = places(&["joy", "fear", "anger"], &names(&["anger", "fear", "joy"])).unwrap();
        assert_eq!(found, [2, 1, 0]);
        for (teacher, expected) in [
            (&["joy", "anger"][..], "it lacks labels of the training posts: `fear`"),
            (
                &["joy", "fear", "anger", "awe", "calm"],
                "it has labels that no training post has: `awe`, `calm`",
            ),
        ] {
            let error = places(teacher, &names(&["anger", "fear", "joy"])).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn scores_are_in_the_students_order_and_computed_once() {
        let folder = tempfile::tempdir().unwrap();
        let (model, work) = (folder.path().join("teacher"), folder.path());
        linear_model(&model, &["joy", "fear", "anger"], &["w1", "w2", "w3"], Loss::Softmax);
        let teacher = Teacher::start(&model, &names(&["anger", "fear", "joy"]), Loss::Softmax, 1).unwrap();
        let scores = teacher.scores(&["w1", "so w3", "w2 so"], work).unwrap();
        assert_eq!(scores, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);

        // What is saved is used, and only for the same texts.
        let file = work.join(format!("teacher-{:016x}.safetensors", teacher.hash(&["w1"])));
        let saved = (SCORES.to_owned(), vec![1, 3], le_bytes(&[0.25, 0.75, 0.0]));
        write_tensors(&[saved], &file).unwrap();
        assert_eq!(teacher.scores(&["w1"], work).unwrap(), [[0.0, 0.75, 0.25]]);
        assert_eq!(teacher.scores(&["w1 so"], work).unwrap(), [[0.0, 0.0, 1.0]]);
        fs::write(&file, "x").unwrap();
        let error = format!("{:#}", teacher.scores(&["w1"], work).unwrap_err());
        assert!(error.contains("damaged; remove it"), "{error}");
    }

    #[test]
    fn a_head_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        linear_model(folder.path(), &["joy", "fear"], &["w1", "w2"], Loss::Sigmoid);
        let error = Teacher::start(folder.path(), &names(&["fear", "joy"]), Loss::Softmax, 1);
        let error = format!("{:#}", error.err().unwrap());
        assert!(
            error.contains("it has a sigmoid head (multi_label_classification)"),
            "{error}"
        );
    }
}
