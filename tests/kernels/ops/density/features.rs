//! `gpu::evaluator`: features that came from elsewhere, strip by strip.

use ddu::density::VOID;
use ddu::device::Buffer;
use ddu::gpu::evaluator::Evaluator;

use super::*;

/// More pixels than a strip has, all of them copies of a few, which get the bits that these get by themselves: a score's bits are the
/// pixel's own (`neighbours_change_no_bit`).
#[test]
fn strips_leave_no_trace() {
    const STRIP: usize = 1 << 16;
    let (channels, classes, few) = (16, 2, 61);
    let gaussians = fit(&Scene::random(51, 200, channels, classes), classes);
    let mut scene = Scene::random(52, few, channels, classes);
    scene.features[7 * channels + 3] = f16::INFINITY;
    let pixels = STRIP + 2 * few + 5;
    let many: Vec<f16> = (0..pixels)
        .flat_map(|pixel| scene.features[pixel % few * channels..][..channels].to_vec())
        .collect();
    let device = device();
    let options = Options { tau: TAU, nearest: true, predicted: false, ..PLAIN };
    // Of the evaluator's own packing: products of warps and of warpgroups sum in other orders.
    let packing = DeviceDensity::new(&*device, &gaussians, Precision::Exact).unwrap().packing();
    let (fitted, at_once) = (gaussians.classes.len(), device.multiprocessors());
    let bytes = device.shared_bytes();
    let tiling = DensityTiling::choose(few, channels, fitted, packing, at_once, bytes).unwrap();
    let expected = evaluate(&*device, &gaussians, &scene, tiling, options);

    let mut evaluator = Evaluator::new(&*device, &gaussians, Precision::Exact).unwrap();
    let features = upload(&*device, &many);
    let all = |evaluator: &mut Evaluator, pixels, relative, nearest| {
        evaluator.evaluate(&*device, features.all(), pixels, relative, nearest)
    };
    let scores = all(&mut evaluator, pixels, true, true).unwrap();
    let (class, distance) = scores.nearest.expect("asked for");
    let same = |what: &str, found: Vec<u32>, expected: &dyn Fn(usize) -> u32| {
        for (pixel, found) in found.into_iter().enumerate() {
            assert_eq!(found, expected(pixel % few), "{what}, pixel {pixel}");
        }
    };
    // Its buffers are the evaluator's, without guards behind them.
    let read = |buffer: &Buffer, bytes: usize| {
        let mut values = vec![0; bytes];
        device.read(buffer.slice(0, bytes).unwrap(), &mut values).unwrap();
        values
    };
    let floats = |buffer: &Buffer| bytemuck::pod_collect_to_vec(&read(buffer, pixels * 4));
    same("density", floats(&scores.density), &|i| expected.density[i].to_bits());
    let relative = scores.relative.expect("asked for");
    same("relative", floats(&relative), &|i| expected.relative[i].to_bits());
    same("distance", floats(&distance), &|i| expected.distance[i].to_bits());
    let classes = read(&class, pixels);
    assert!((0..pixels).all(|i| classes[i] == expected.nearest[i % few]));
    assert_eq!((classes[7], expected.density[7]), (VOID, f32::NEG_INFINITY));

    let plain = all(&mut evaluator, 3, false, false).unwrap();
    assert!(plain.relative.is_none() && plain.nearest.is_none());
    let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&read(&plain.density, 12));
    assert_eq!(floats, expected.density[..3]);
    for wrong in [0, pixels + 1, usize::MAX / 2] {
        let error = all(&mut evaluator, wrong, false, false).err().expect("no such pixels");
        assert!(error.to_string().contains("fp16 features of"), "{error}");
    }
}
