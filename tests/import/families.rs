//! Every family, depth, output stride and size against the families' own code: the goldens of
//! tests/golden/make_families.py, whose weights and images are generated again here.

use std::path::Path;

use ddu::engine::Engine;
use ddu::import::{Imported, Options, import};
use ddu::ops::Size;
use safetensors::SafeTensors;

use crate::checkpoint::{Dtype, TorchFile};
use crate::generate::{golden, image, keys, value, weights};

const SIZES: [Size; 3] = [Size { h: 513, w: 513 }, Size { h: 360, w: 480 }, Size { h: 97, w: 131 }];

/// Of max |error| / max |value| of the logits on the feature grid.
const TOLERANCE: f32 = 1e-4;

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Imports what PyTorch saved beside the golden, or else the same weights in a file of our own.
fn import_golden(path: &Path, output_stride: usize) -> Imported {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = path.with_extension("pth");
    if !checkpoint.exists() {
        checkpoint = folder.path().join("checkpoint.pth");
        let file = TorchFile::new(&weights(&keys(path)), Dtype::F32);
        std::fs::write(&checkpoint, file.zip()).unwrap();
    }
    let options = Options { output_stride: Some(output_stride), ..Options::default() };
    import(&checkpoint, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Holds one golden file; prints one line per case.
fn assert_parity(path: &Path) {
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut worst = 0f32;
    for output_stride in [8, 16] {
        let model = import_golden(path, output_stride).model;
        let config = model.config();
        let named = format!("{}-{}", config.family, config.backbone);
        assert_eq!(named, name.replace("_separable", "").replace("_dense", ""));
        let classes = config.classes.len() as f32;
        let mut engine = Engine::new(model);
        for size in SIZES {
            let case = format!("{output_stride}.{}x{}", size.h, size.w);
            let image = image(size);
            let output = engine.run(&[&image]).unwrap();
            let largest = floats(&file, &format!("{case}.max"))[0];
            let compare = |found: &[f32], expected: Vec<f32>| {
                let places = (0..expected.len() as u64)
                    .map(|i| (value(&case, i) * found.len() as f64) as usize);
                places.zip(expected).fold(0f32, |most, (place, expected)| {
                    let error = (found[place] - expected).abs();
                    // A NaN fails as well.
                    if error <= most { most } else { error }
                })
            };
            let logits =
                compare(&output.logits(0).unwrap(), floats(&file, &format!("{case}.logits")));
            let entropy = compare(
                &output.maps(0).unwrap().entropy,
                floats(&file, &format!("{case}.entropy")),
            );
            println!(
                "{name} {case}: logits {:.1e} of {largest:.1}, entropy {entropy:.1e} nats",
                logits / largest
            );
            assert!(logits <= TOLERANCE * largest, "{name} {case}: logits off by {logits}");
            // dH = -sum_c p_c (ln p_c + H) dz_c, so |dH| <= 2 H max |dz| <= 2 ln C max |dz|; the
            // head itself adds rounding.
            let bound = 2.0 * classes.ln() * TOLERANCE * largest + 1e-5;
            assert!(entropy <= bound, "{name} {case}: entropy off by {entropy}");
            worst = worst.max(logits / largest);
        }
    }
    println!("{name}: worst {worst:.1e}");
}

macro_rules! families {
    ($($test:ident $name:literal)*) => {$(
        #[test]
        fn $test() {
            assert_parity(&golden(concat!("families/", $name, ".safetensors")));
        }
    )*};
}

families! {
    smp_resnet18 "smp-resnet18"
    smp_resnet34 "smp-resnet34"
    smp_resnet50 "smp-resnet50"
    smp_resnet101 "smp-resnet101"
    smp_dense_aspp "smp_dense-resnet18"
    torchvision_resnet50 "torchvision-resnet50"
    torchvision_resnet101 "torchvision-resnet101"
    vainf_resnet50 "vainf-resnet50"
    vainf_resnet101 "vainf-resnet101"
    vainf_separable "vainf_separable-resnet50"
    jfzhang95_resnet50 "jfzhang95-resnet50"
    jfzhang95_resnet101 "jfzhang95-resnet101"
}

/// The published widths: `make_families.py --shrink 1 --out DIR --export DIR ...`, then
/// `DDU_FAMILIES=DIR cargo test --release --test import full_width -- --nocapture`.
#[test]
fn full_width() {
    let Some(folder) = std::env::var_os("DDU_FAMILIES") else {
        println!("skipped: DDU_FAMILIES names no folder of full-width goldens");
        return;
    };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    paths.iter().for_each(|path| assert_parity(path));
}
