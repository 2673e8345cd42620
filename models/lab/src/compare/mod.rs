//! Classical classifiers and model folders, trained, tuned and judged on the same posts.

#![allow(dead_code)]

mod bayes;
mod features;
mod forest;
mod lanes;
mod linear;
mod logistic;
mod sparse;
mod svc;
#[cfg(test)]
mod testing;
