#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

fn small(labels: usize) -> Encoder {
    small_with(labels, 0)
}

fn small_with(labels: usize, relative_buckets: usize) -> Encoder {
    let shape = Shape {
        hidden: 8,
        heads: 2,
        layers: 2,
        intermediate: 16,
        positions: 12,
        first_position: 2,
        relative_buckets,
        pooling: Pooling::Cls,
        head_activation: HeadActivation::default(),
        vocabulary: 11,
        labels,
        epsilon: 1e-5,
    };
    let mut encoder = Encoder::zeros(shape);
    let mut rng = StdRng::seed_from_u64(7);
    for weight in encoder.weights.words.iter_mut().chain(&mut encoder.weights.dense) {
        *weight = 0.5 * normal(&mut rng);
    }
    encoder
}

fn pooled_by_mean() -> Encoder {
    let mut encoder = small(3);
    encoder.shape.pooling = Pooling::Mean;
    encoder
}

fn posts() -> Packed {
    [&[0_u32, 5, 6, 7, 2][..], &[0, 2], &[0, 5, 5, 9, 3, 4, 2]]
        .into_iter()
        .collect()
}

fn loss(encoder: &Encoder, kind: Loss, rates: Rates) -> f64 {
    let (mut pass, mut head) = (Pass::default(), Head::default());
    pass.forward(encoder, &posts(), rates, 3);
    head.forward(encoder, &posts(), &pass);
    head.loss(kind, targets(), 1.0)
}

fn targets() -> impl Iterator<Item = Target<'static>> {
    let soft = |scores| SoftTarget {
        scores,
        temperature: 2.5,
        weight: 0.7,
    };
    let targets: [(&[f32], f32, Option<SoftTarget<'_>>); 3] = [
        (&[1.0, 0.0, 0.0], 1.0, None),
        (&[0.0, 0.5, 0.5], 2.0, Some(soft(&[0.2, 0.5, 0.3]))),
        (&[0.1, 0.1, 0.8], 0.5, Some(soft(&[0.0, 0.0, 1.0]))),
    ];
    targets.into_iter().map(|(shares, weight, soft)| Target {
        shares,
        weight,
        classes: &[1.0, 0.0, 2.5],
        soft,
    })
}

fn gradient(encoder: &Encoder, kind: Loss, rates: Rates) -> Gradient {
    let (mut pass, mut head) = (Pass::default(), Head::default());
    let mut gradient = Gradient::new(&encoder.shape, &encoder.layout);
    let posts = posts();
    pass.forward(encoder, &posts, rates, 3);
    head.forward(encoder, &posts, &pass);
    head.loss(kind, targets(), 1.0);
    let mut d = Vec::new();
    head.backward(encoder, &posts, &pass, &mut d, &mut gradient);
    pass.backward(encoder, &posts, &mut d, &mut gradient);
    gradient
}

/// Compares the slope of the loss in random directions by central differences and by the gradient.
fn check(encoder: &Encoder, kind: Loss, rates: Rates) {
    let found = gradient(encoder, kind, rates);
    let tensors = encoder.layout.tensors.clone();
    let mut rng = StdRng::seed_from_u64(11);
    for tensor in tensors.into_iter().filter(|tensor| !tensor.place.is_empty()) {
        let direction: Vec<f32> = tensor.place.clone().map(|_| normal(&mut rng)).collect();
        let norm = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
        let step = 2e-3 / norm;
        let moved = |sign: f32| {
            let mut encoder = encoder.clone();
            for (weight, d) in encoder.weights.dense[tensor.place.clone()].iter_mut().zip(&direction) {
                *weight += sign * step * d;
            }
            loss(&encoder, kind, rates)
        };
        let by_difference = (moved(1.0) - moved(-1.0)) / f64::from(2.0 * step);
        let by_gradient: f64 = found.dense[tensor.place.clone()]
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(g * d))
            .sum();
        let size = by_gradient.abs().max(0.5 * f64::from(norm));
        assert!(
            (by_difference - by_gradient).abs() < 5e-3 * size,
            "{}: {by_difference} by differences, {by_gradient} by the gradient",
            tensor.name
        );
    }
    for (&id, row) in found.ids.iter().zip(found.words.chunks_exact(8)) {
        let column = rng.random_range(0..8);
        let moved = |sign: f32| {
            let mut encoder = encoder.clone();
            encoder.weights.words[id as usize * 8 + column] += sign * 2e-3;
            loss(&encoder, kind, rates)
        };
        let by_difference = (moved(1.0) - moved(-1.0)) / 4e-3;
        assert!(
            (by_difference - f64::from(row[column])).abs() < 5e-3,
            "word {id}: {by_difference} {}",
            row[column]
        );
    }
}

#[test]
fn frozen_weights_have_no_gradient_and_the_others_the_same_as_before() {
    let encoder = small(3);
    let whole = gradient(&encoder, Loss::Sigmoid, Rates::default());
    for (frozen, start) in [
        (Frozen { words: true, layers: 0 }, 0),
        (Frozen { words: true, layers: 1 }, encoder.layout.layers[1].query.start),
        (Frozen { words: true, layers: 2 }, encoder.layout.dense.start),
    ] {
        let (mut pass, mut head, mut d) = (Pass::default(), Head::default(), Vec::new());
        let mut found = Gradient::new(&encoder.shape, &encoder.layout).freezing(frozen);
        pass.forward(&encoder, &posts(), Rates::default(), 3);
        head.forward(&encoder, &posts(), &pass);
        head.loss(Loss::Sigmoid, targets(), 1.0);
        head.backward(&encoder, &posts(), &pass, &mut d, &mut found);
        pass.backward(&encoder, &posts(), &mut d, &mut found);
        assert!(found.ids.is_empty() && !whole.ids.is_empty());
        assert!(found.dense[..start].iter().all(|&value| value == 0.0), "{frozen:?}");
        assert_eq!(found.dense[start..], whole.dense[start..], "{frozen:?}");
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    check(&small(3), Loss::Softmax, Rates::default());
    check(&small(3), Loss::Sigmoid, Rates::default());
    check(&small_with(3, 8), Loss::Softmax, Rates::default());
    check(&pooled_by_mean(), Loss::Softmax, Rates::default());
}

#[test]
fn gradients_agree_under_dropout() {
    let rates = Rates {
        hidden: 0.2,
        attention: 0.2,
    };
    check(&small(3), Loss::Softmax, rates);
    check(&small_with(3, 8), Loss::Softmax, rates);
    check(&pooled_by_mean(), Loss::Softmax, rates);
}

#[test]
fn a_post_does_not_depend_on_its_neighbours() {
    for encoder in [small(3), small_with(3, 8), pooled_by_mean()] {
        let (mut pass, mut head) = (Pass::default(), Head::default());
        pass.forward(&encoder, &posts(), Rates::default(), 0);
        let together = head.forward(&encoder, &posts(), &pass).to_vec();
        for (post, expected) in posts().posts().zip(together.chunks(3)) {
            let alone: Packed = [&posts().ids()[post]].into_iter().collect();
            pass.forward(&encoder, &alone, Rates::default(), 0);
            let logits = head.forward(&encoder, &alone, &pass);
            for (a, b) in logits.iter().zip(expected) {
                assert!((a - b).abs() < 1e-5, "{a} alone, {b} together");
            }
        }
    }
}

#[test]
fn a_pass_over_no_posts_is_empty() {
    let encoder = small(3);
    let mut pass = Pass::default();
    assert!(
        pass.forward(&encoder, &Packed::default(), Rates::default(), 0)
            .is_empty()
    );
}

#[test]
fn the_masked_head_agrees_with_finite_differences() {
    let encoder = small(0);
    let masked = [Masked { at: 1, id: 5 }, Masked { at: 9, id: 4 }];
    let run = |encoder: &Encoder| {
        let (mut pass, mut head) = (Pass::default(), MaskedHead::default());
        let mut gradient = Gradient::new(&encoder.shape, &encoder.layout);
        let mut d = Vec::new();
        pass.forward(encoder, &posts(), Rates::default(), 0);
        d.resize(pass.states().len(), 0.0);
        let loss = head.learn(encoder, &pass, &masked, 1.0, &mut d, &mut gradient);
        pass.backward(encoder, &posts(), &mut d, &mut gradient);
        (loss, gradient)
    };
    let (_, mut found) = run(&encoder);
    let found = found.all_words().to_vec();
    for place in (0..found.len()).step_by(5) {
        let moved = |sign: f32| {
            let mut encoder = encoder.clone();
            encoder.weights.words[place] += sign * 2e-3;
            run(&encoder).0
        };
        let by_difference = (moved(1.0) - moved(-1.0)) / 4e-3;
        let by_gradient = f64::from(found[place]);
        assert!(
            (by_difference - by_gradient).abs() < 1e-2 * by_gradient.abs().max(1.0),
            "{place}: {by_difference} {by_gradient}"
        );
    }
}
