//! The same weights in every file format are the same model.

use std::path::Path;

use ddu::import::{Imported, Options, import};
use half::{bf16, f16};
use zip::CompressionMethod;

use crate::checkpoint::{Dtype, TorchFile, safetensors, zip};
use crate::generate::{Weights, golden, small, weights};

fn import_bytes(bytes: &[u8]) -> Imported {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    std::fs::write(&path, bytes).unwrap();
    import_path(&path)
}

fn import_path(path: &Path) -> Imported {
    import(path, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// The canonical tensors hold the checkpoint's numbers.
fn assert_holds(imported: &Imported, weights: &Weights) {
    let pairs = [
        ("backbone.stem.weight", "encoder.conv1.weight"),
        ("backbone.stem.norm.var", "encoder.bn1.running_var"),
        ("backbone.layer2.0.downsample.weight", "encoder.layer2.0.downsample.0.weight"),
        ("backbone.layer4.1.conv2.norm.mean", "encoder.layer4.1.bn2.running_mean"),
        ("aspp.0.weight", "decoder.aspp.0.convs.0.0.weight"),
        ("aspp.3.depthwise.weight", "decoder.aspp.0.convs.3.0.0.weight"),
        ("aspp.3.pointwise.weight", "decoder.aspp.0.convs.3.0.1.weight"),
        ("aspp.3.pointwise.norm.bias", "decoder.aspp.0.convs.3.1.bias"),
        ("aspp.pool.weight", "decoder.aspp.0.convs.4.1.weight"),
        ("aspp.project.weight", "decoder.aspp.0.project.0.weight"),
        ("post.0.pointwise.weight", "decoder.aspp.1.1.weight"),
        ("post.0.pointwise.norm.weight", "decoder.aspp.2.weight"),
        ("decoder.low_level.weight", "decoder.block1.0.weight"),
        ("decoder.0.depthwise.weight", "decoder.block2.0.0.weight"),
        ("classifier.weight", "segmentation_head.0.weight"),
        ("classifier.bias", "segmentation_head.0.bias"),
    ];
    for (name, key) in pairs {
        let (found, expected) = (imported.model.tensor(name), &weights[key]);
        assert_eq!(found.shape, expected.shape, "{name}");
        assert_eq!(found.data, expected.data, "{name}");
    }
}

fn rounded(dtype: Dtype) -> Weights {
    let mut weights = small();
    for value in weights.values_mut().flat_map(|weight| &mut weight.data) {
        *value = match dtype {
            Dtype::F16 => f16::from_f32(*value).to_f32(),
            Dtype::Bf16 => bf16::from_f32(*value).to_f32(),
            _ => *value,
        };
    }
    weights
}

#[test]
fn every_format_and_type_gives_the_same_model() {
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
        let expected = rounded(dtype);
        let file = TorchFile::new(&small(), dtype);
        let big = TorchFile { big_endian: true, ..file.clone() };
        let formats = [
            ("zip", file.zip()),
            ("deflated zip", zip(&file.members(), CompressionMethod::Deflated)),
            ("big-endian zip", big.zip()),
            ("legacy", file.legacy()),
            ("big-endian legacy", big.legacy()),
            ("safetensors", safetensors(&small(), dtype)),
        ];
        for (name, bytes) in &formats {
            println!("{dtype:?} {name}");
            let imported = import_bytes(bytes);
            assert_holds(&imported, &expected);
            assert_eq!(imported.ignored, ["29 x num_batches_tracked"]);
        }
    }
}

/// All tensors as views of one storage: one after another, convolutions stored transposed
/// (channels last), a vector with stride 2.
#[test]
fn strided_views_of_a_shared_storage() {
    let weights = small();
    let mut file = TorchFile::new(&weights, Dtype::F32);
    let mut flat = vec![f32::NAN; 3];
    for item in &mut file.items {
        let data = &weights[&item.key].data;
        item.storage = 0;
        item.offset = flat.len() as u64;
        match *item.shape.as_slice() {
            [o, i, h, w] => {
                item.strides = vec![h * w * i, 1, w * i, i];
                for (o, hw) in (0..o).flat_map(|o| (0..h * w).map(move |hw| (o, hw))) {
                    flat.extend((0..i).map(|c| data[((o * i + c) * h * w + hw) as usize]));
                }
            }
            [_] => {
                item.strides = vec![2];
                flat.extend(data.iter().flat_map(|v| [*v, f32::NAN]));
            }
            _ => item.dtype = Dtype::F32,
        }
    }
    file.storages = vec![Dtype::F32.encode(&flat)];
    for bytes in [file.zip(), file.legacy()] {
        assert_holds(&import_bytes(&bytes), &weights);
    }
}

#[test]
fn a_tensor_is_its_last_definition_and_may_be_expanded() {
    let mut file = TorchFile::new(&small(), Dtype::F32);
    let key = "encoder.bn1.running_mean";
    let mut item = file.item(key).clone();
    item.storage = file.storages.len();
    item.strides = vec![0];
    file.items.push(item);
    file.storages.push(Dtype::F32.encode(&[0.25]));
    let imported = import_bytes(&file.zip());
    assert_eq!(imported.model.tensor("backbone.stem.norm.mean").data, vec![0.25; 4]);
}

#[test]
fn nested_and_prefixed_state_dicts_are_found() {
    for nests in [vec!["model_state"], vec!["state_dict"], vec!["model", "state_dict"]] {
        for prefix in ["", "module.", "_orig_mod.module.", "model."] {
            let mut file = TorchFile::new(&small(), Dtype::F32);
            file.items.iter_mut().for_each(|item| item.key.insert_str(0, prefix));
            file.nests = nests.clone();
            for bytes in [file.zip(), file.legacy()] {
                let imported = import_bytes(&bytes);
                assert_holds(&imported, &small());
                let found = imported.nested.concat();
                assert_eq!(found, nests.concat() + prefix);
            }
        }
    }
}

/// What PyTorch itself wrote: tests/golden/make_torch_files.py.
#[test]
fn files_that_pytorch_wrote() {
    let keys = crate::generate::keys(&golden("torch/expected.safetensors"));
    for (name, dtype) in [
        ("zip-named-in-21-chars.pth", Dtype::F32),
        ("zip-protocol-5-no-crc-bf16.pth", Dtype::Bf16),
        ("legacy.pth", Dtype::F32),
        ("legacy-checkpoint-f16.pth", Dtype::F16),
        ("views-f64.pth", Dtype::F64),
    ] {
        println!("{name}");
        let mut expected = weights(&keys);
        for weight in expected.values_mut() {
            let round = |v: f32| match dtype {
                Dtype::F16 => f16::from_f32(v).to_f32(),
                Dtype::Bf16 => bf16::from_f32(v).to_f32(),
                _ => v,
            };
            weight.data.iter_mut().for_each(|v| *v = round(*v));
        }
        let imported = import_path(&golden(&format!("torch/{name}")));
        assert_holds(&imported, &expected);
    }
}

/// PyTorch's own eval-mode weights of three spectrally normalised convolutions, in both of its
/// notations. It divides in f32, we in f64: a few ulp.
#[test]
fn spectral_norm_is_folded() {
    let bytes = std::fs::read(golden("torch/expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in ["spectral-old.pth", "spectral-new.pth"] {
        let imported = import_path(&golden(&format!("torch/{name}")));
        assert_eq!(imported.folded, 3);
        for unit in ["backbone.stem", "backbone.layer1.0.conv1", "aspp.1.depthwise"] {
            let found = &imported.model.tensor(&format!("{unit}.weight")).data;
            let view = expected.tensor(&format!("{name}.{unit}")).unwrap();
            let values =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            assert_eq!(found.len(), view.shape().iter().product::<usize>());
            let largest = found.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (found, expected) in found.iter().zip(values) {
                let error = (found - expected).abs() / largest;
                assert!(error <= 2e-6, "{name} {unit}: {found} {expected}");
            }
        }
    }
}

#[test]
fn a_hub_folder_says_stride_and_rates() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("model.safetensors", &safetensors(&small(), Dtype::F32));
    write(
        "config.json",
        br#"{"_model_class": "DeepLabV3Plus", "encoder_output_stride": 8, "upsampling": 4,
             "decoder_atrous_rates": [3, 5, 7], "decoder_aspp_dropout": 0.25}"#,
    );
    let imported = import_path(folder.path());
    let config = imported.model.config();
    assert_eq!((config.output_stride, config.input_multiple), (8, 8));
    assert_eq!(config.aspp_rates, [3, 5, 7]);
    assert_eq!(config.dropout[0].probability, 0.25);
    assert_eq!(imported.assumed, [""; 0]);
    assert_holds(&imported, &small());
}
