//! A density of features that another network made, or anything else: `cargo run --release --example own_features`.
//!
//! Two classes of features `[pixels, D]` are drawn; a density is fitted to them, and features near to and far from
//! what it saw are scored. Nothing here needs a network or an image.

use ddu::Result;
use ddu::density::{Covariance, Evaluator, Gaussians, Moments, Options, Prior};

const CLASSES: usize = 2;
const D: usize = 8;

fn main() -> Result<()> {
    // Features `[pixels, D]` and their classes `[pixels]`, as many batches as there are. 255 is "no class".
    let mut moments = Moments::new(CLASSES, D);
    for batch in 0..10 {
        let labels: Vec<u8> = (0..500).map(|i| (i % CLASSES) as u8).collect();
        let features = features(batch, &labels, 0.0);
        moments.add(&features, &labels);
    }
    let (gaussians, warnings) = Gaussians::new(&moments, Covariance::Full, Prior::Empirical)?;
    for warning in warnings {
        eprintln!("warning: {}", warning.message(&warning.class().to_string()));
    }

    let evaluator = Evaluator::new(&gaussians);
    let score = |shift| {
        let features = features(99, &[0, 1, 0, 1], shift);
        evaluator.evaluate(&features, None, Options::default()).score
    };
    let (near, far) = (score(0.0), score(6.0));
    println!("log q(z) in nats of features as they were fitted: {near:.1?}");
    println!("and of features that are shifted by six: {far:.1?}");
    assert!(near.iter().all(|n| far.iter().all(|f| f < n)), "the shifted ones are less dense");
    Ok(())
}

/// Features of variance 1 around 2 c (class c) + `shift` in every channel; uniform, from a linear congruence.
fn features(seed: u64, labels: &[u8], shift: f32) -> Vec<f32> {
    let mut state = seed * 1_000_003 + 1;
    let mut noise = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        12f32.sqrt() * ((state >> 40) as f32 / (1u32 << 24) as f32 - 0.5)
    };
    let feature = |label: &u8| [2.0 * f32::from(*label) + shift; D];
    labels.iter().flat_map(feature).map(|mean| mean + noise()).collect()
}
