//! The class of the least Mahalanobis distance, and that distance.

use super::*;

#[test]
fn nearest_class_and_its_distance() {
    nearest_of(7);
    // Fewer than nvcc takes in one round.
    nearest_of(3);
}

fn nearest_of(classes: usize) {
    let channels = 48;
    let gaussians = fit(&Scene::random(21, 900, channels, classes), classes);
    let scene = Scene::random(22, 150, channels, classes);
    let device = device();
    for (tile, splits) in
        each(&*device, Precision::Exact).into_iter().flat_map(|tile| [(tile, 1), (tile, 3)])
    {
        let tiling = DensityTiling::new(tile, gaussians.classes.len(), splits);
        let found = evaluate(
            &*device,
            &gaussians,
            &scene,
            tiling,
            Options { nearest: true, tau: TAU, ..PLAIN },
        );
        for pixel in 0..scene.pixels() {
            let z = scene.z(pixel);
            let distances = gaussians.classes.iter().map(|c| (c.class, c.gaussian.distance(&z)));
            let least = distances.clone().map(|d| d.1).fold(f64::INFINITY, f64::min);
            let chosen = distances.clone().find(|d| d.0 == usize::from(found.nearest[pixel]));
            // d^2 / 2 is a part of log q and errs no more.
            let error = 2.0 * allowed(least);
            assert!(chosen.is_some_and(|d| d.1 <= least + error), "pixel {pixel}");
            let squared = f64::from(found.distance[pixel]).powi(2);
            assert!((squared - least).abs() <= error, "pixel {pixel}: {squared}, expected {least}");
        }
    }
}
