//! The demo's scenes: the same everywhere, labelled as promised.

use ddu::demo::scenes::{self, CLASSES, SIZE, STRANGERS};
use sha2::{Digest, Sha256};

fn hash(scene: &scenes::Scene) -> String {
    let digest = Sha256::new().chain_update(&scene.image.rgb).chain_update(&scene.label).finalize();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The committed network was trained on these very pixels. Only integer arithmetic and correctly
/// rounded f32 operations make them, so the hashes hold on every platform and for any thread count.
/// Whoever changes the scenes must train the network again (assets/README.md).
#[test]
fn scenes_are_the_ones_the_network_was_trained_on() {
    let found = [(0, false), (17, false), ((2 << 32) + 1, true)]
        .map(|(seed, strangers)| hash(&scenes::draw(seed, strangers)));
    assert_eq!(found, ["545affd282f082a4", "c107f0598da28f4a", "4be821effb54f489"]);
}

#[test]
fn one_thread_draws_what_many_do() {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let draw = || hash(&scenes::draw(99, true));
    assert_eq!(one.install(draw), three.install(draw));
}

#[test]
fn strangers_stand_only_where_they_are_asked_for() {
    let known = CLASSES.len() as u8;
    let all = (CLASSES.len() + STRANGERS.len()) as u8;
    let mut seen = vec![0usize; all as usize];
    for seed in 0..24 {
        let scene = scenes::draw(seed, false);
        assert_eq!(scene.image.rgb.len(), 3 * SIZE.pixels());
        assert_eq!(scene.label.len(), SIZE.pixels());
        assert!(scene.label.iter().all(|&l| l < known), "seed {seed}");

        let scene = scenes::draw(seed, true);
        assert!(scene.label.iter().all(|&l| l < all), "seed {seed}");
        let strange = scene.label.iter().filter(|&&l| l >= known).count();
        // Nearer than 13 m even the smallest of two strangers covers 9 x 20 pixels, if not hidden.
        assert!(strange > 100, "seed {seed}: {strange} pixels of unknown classes");
        scene.label.iter().for_each(|&l| seen[l as usize] += 1);
    }
    assert!(seen.iter().all(|&n| n > 0), "a class is in none of the scenes: {seen:?}");
}

/// Everything that a scene draws follows from its own seed.
#[test]
fn seeds_differ() {
    let [a, b] = [0, 1].map(|seed| scenes::draw(seed, false));
    let same = a.label.iter().zip(&b.label).filter(|(a, b)| a == b).count();
    assert!(same < SIZE.pixels() * 9 / 10);
    assert_ne!(a.image, b.image);
}

#[test]
fn a_dump_is_a_dataset_in_voc_layout() {
    let folder = tempfile::tempdir().unwrap();
    scenes::dump(folder.path(), 3, 40).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("classes.txt").lines().count(), CLASSES.len() + STRANGERS.len());
    assert_eq!(read("ImageSets/Segmentation/train.txt"), "train-00000\ntrain-00001\ntrain-00002\n");
    assert_eq!(read("ImageSets/Segmentation/val.txt"), "val-00000\n");

    let scene = scenes::draw(41, false);
    let image = image::open(folder.path().join("JPEGImages/train-00001.png")).unwrap();
    assert_eq!(image.to_rgb8().into_raw(), scene.image.rgb);
    let file =
        std::fs::File::open(folder.path().join("SegmentationClass/train-00001.png")).unwrap();
    // The png crate, untold, hands out the palette's indices.
    let mut mask = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut indices = vec![0; mask.output_buffer_size().unwrap()];
    mask.next_frame(&mut indices).unwrap();
    assert_eq!(indices, scene.label);
}
