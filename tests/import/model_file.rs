//! The model file: what is damaged or senseless is refused, and the hash is the model's.

use std::collections::HashMap;

use ddu::data::content_hash;
use ddu::model::{Backbone, Model};
use safetensors::SafeTensors;

use crate::generate::value;
use crate::models::{random_model, small};

fn saved(model: &Model) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    model.save(&path).unwrap();
    assert_eq!(Model::load(&path).unwrap().hash(), model.hash());
    std::fs::read(path).unwrap()
}

fn metadata(bytes: &[u8]) -> HashMap<String, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    header.metadata().clone().unwrap()
}

/// The file with other metadata and the hash that belongs to it.
fn with(bytes: &[u8], metadata: HashMap<String, String>) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors: Vec<_> = file.iter().collect();
    content_hash::serialize("test", &tensors, metadata).unwrap()
}

fn refused(bytes: &[u8]) -> String {
    let line = Model::from_bytes("model.safetensors", bytes).expect_err("refused").to_string();
    assert!(line.starts_with("model.safetensors") && line.lines().count() == 1, "{line}");
    line
}

#[test]
fn flipped_weights_and_configurations_are_refused() {
    let model = random_model(small(Backbone::Resnet18), 3);
    let bytes = saved(&model);
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = bytes[..header].trim_ascii_end().len();
    for i in 0..600 {
        let at =
            |start: usize, end: usize| start + (value("flip", i) * (end - start) as f64) as usize;
        // Half of them in the header, half in the weights.
        let at = if i % 2 == 0 { at(0, text) } else { at(header, bytes.len()) };
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (value("bit", i) * 8.0) as u32;
        refused(&damaged);
    }
    // One digit of an ASPP rate, which leaves every shape as it is.
    let rates = br#"aspp_rates\":[6"#;
    let at = bytes.windows(rates.len()).position(|part| part == rates).unwrap();
    let mut damaged = bytes.clone();
    damaged[at + rates.len() - 1] = b'7';
    let line = refused(&damaged);
    assert!(line.contains("SHA-256") && line.contains("damaged"), "{line}");
}

#[test]
fn a_format_without_a_hash_asks_for_another_conversion() {
    let bytes = saved(&random_model(small(Backbone::Resnet18), 3));
    let mut old = metadata(&bytes);
    old.insert("ddu.format".into(), "ddu-model-1".into());
    let line = refused(&with(&bytes, old));
    assert!(line.contains("found ddu-model-1; convert the checkpoint again"), "{line}");
}

#[test]
fn senseless_configurations_are_refused() {
    let bytes = saved(&random_model(small(Backbone::Resnet18), 3));
    let good: serde_json::Value = serde_json::from_str(&metadata(&bytes)["ddu.config"]).unwrap();
    let large = 1u64 << 60;
    for (key, senseless, says) in [
        ("std", serde_json::json!([1e-45, 1e-45, 1e-45]), "normalisation"),
        ("std", serde_json::json!([0.2, 0.0, 0.2]), "normalisation"),
        ("std", serde_json::json!([0.2, -0.2, 0.2]), "normalisation"),
        ("std", serde_json::json!([0.2, 1e39, 0.2]), "normalisation"),
        ("std", serde_json::json!([0.2, null, 0.2]), "a configuration"),
        ("mean", serde_json::json!([0.5, 0.5, -1e30]), "normalisation"),
        ("aspp_channels", serde_json::json!(large), "channels"),
        ("stem_channels", serde_json::json!(0), "channels"),
        ("post_aspp_channels", serde_json::json!([large]), "channels"),
        ("aspp_rates", serde_json::json!([6, 12, large]), "dilations"),
        ("input_multiple", serde_json::json!(large), "dilations"),
        ("dropout", serde_json::json!([{"after": "nowhere", "probability": 0.5}]), "dropout"),
        ("dropout", serde_json::json!([{"after": "aspp.project", "probability": 1.0}]), "dropout"),
    ] {
        let mut config = good.clone();
        config[key] = senseless.clone();
        let mut changed = metadata(&bytes);
        changed.insert("ddu.config".into(), config.to_string());
        let line = refused(&with(&bytes, changed));
        assert!(line.contains(says), "{key} {senseless}: {line}");
    }
}

/// Metadata and names of tensors are the file's: they must not reach a terminal as they are.
#[test]
fn control_characters_are_escaped_and_messages_bounded() {
    let bytes = saved(&random_model(small(Backbone::Resnet18), 3));
    let evil = format!("\n\x1b[31mPWNED\r{}", "A".repeat(5000));
    let mut format = metadata(&bytes);
    format.insert("ddu.format".into(), evil.clone());
    let mut config = metadata(&bytes);
    let with_class =
        config["ddu.config"].replacen("\"smp\"", &format!("[\"{}", "b".repeat(5000)), 1);
    config.insert("ddu.config".into(), with_class);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file.iter().collect();
    tensors[0].0 = &evil;
    let renamed = content_hash::serialize("test", &tensors, metadata(&bytes)).unwrap();
    for damaged in [with(&bytes, format), with(&bytes, config), renamed] {
        let line = refused(&damaged);
        assert!(!line.contains(char::is_control) && line.len() < 2100, "{line}");
    }
}

/// Densities name the model that they were fitted with by its hash: it must not change with the format.
#[test]
fn the_demo_model_keeps_its_hash_and_its_bytes() {
    let bytes = include_bytes!("../../assets/demo.safetensors");
    let model = Model::from_bytes("demo", bytes).unwrap();
    assert!(saved(&model) == bytes);
    assert_eq!(model.hash(), "f44757063fd8bdaacef12cb999f5851566a22cce05c4019d3962ba8de7d61c1a");
}
