//! `ddu convert` as users meet it: what it reads beside the checkpoint, what it warns of, and that it
//! never overwrites what it reads.

use std::path::Path;

use crate::checkpoint::{Dtype, TorchFile, safetensors, zip};
use crate::generate::small;
use crate::malformed::ddu;
use ddu::model::Model;
use zip::CompressionMethod;

const HUB: &[u8] = br#"{"_model_class": "DeepLabV3Plus", "encoder_output_stride": 8,
                         "decoder_atrous_rates": [3, 5, 7]}"#;

/// A folder with a checkpoint, a hub folder and class names.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Bench(tempfile::tempdir().unwrap());
        bench.write("good.pth", &TorchFile::new(&small(), Dtype::F32).zip());
        std::fs::create_dir(bench.0.path().join("hub")).unwrap();
        bench.write("hub/model.safetensors", &safetensors(&small(), Dtype::F32));
        bench.write("hub/config.json", HUB);
        bench
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).unwrap()
    }

    /// Exit code, stdout and stderr of `ddu convert ARGUMENTS`.
    fn convert(&self, arguments: &str) -> (i32, String, String) {
        let arguments: Vec<_> = ["convert"].into_iter().chain(arguments.split(' ')).collect();
        let output = ddu(self.0.path(), &arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn model(&self, name: &str) -> Model {
        Model::load(self.0.path().join(name)).unwrap()
    }
}

#[test]
fn what_is_assumed_is_a_warning_that_names_the_flags() {
    let bench = Bench::new();
    let (code, summary, said) = bench.convert("good.pth -o m");
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    let expected = "warning: good.pth: assumed output stride 16 (default of smp; --output-stride) and \
                    ASPP rates 12,24,36 (default of smp; --atrous-rates), which the file does not state";
    assert!(said.starts_with(expected), "{said}");
    assert!(summary.contains("assumed       output stride 16 (default"), "{summary}");
    let (_, _, said) = bench.convert("good.pth -o m --force --output-stride 16");
    assert!(said.contains("assumed ASPP rates") && !said.contains("--output-stride"), "{said}");
    let flags = "--output-stride 16 --atrous-rates 6,12,18";
    let (code, summary, said) = bench.convert(&format!("good.pth -o m --force {flags}"));
    assert_eq!((code, said.as_str()), (0, ""), "{summary}");
}

/// `training/` stores both beside the state dict.
#[test]
fn a_checkpoint_may_state_stride_and_rates() {
    let bench = Bench::new();
    let file = TorchFile { nests: vec!["state_dict"], ..TorchFile::new(&small(), Dtype::F32) };
    let mut members = file.members();
    let pickle = &mut members[0].1;
    assert_eq!(pickle.pop(), Some(b'.'));
    crate::checkpoint::text(pickle, "output_stride");
    pickle.extend(b"K\x08s");
    crate::checkpoint::text(pickle, "atrous_rates");
    pickle.extend(b"](K\x06K\x0cK\x12es.");
    bench.write("stated.pth", &zip(&members, CompressionMethod::Stored));
    let (code, _, said) = bench.convert("stated.pth -o m");
    assert_eq!((code, said.as_str()), (0, ""));
    let model = bench.model("m");
    assert_eq!((model.config().output_stride, &*model.config().aspp_rates), (8, &[6, 12, 18][..]));
    // What the user says counts more.
    bench.convert("stated.pth -o m --force --atrous-rates 1,2,3");
    assert_eq!(bench.model("m").config().aspp_rates, [1, 2, 3]);
}

#[test]
fn the_config_of_smp_is_read_where_it_lies_beside() {
    let bench = Bench::new();
    for checkpoint in ["hub", "hub/model.safetensors"] {
        let (code, summary, said) = bench.convert(&format!("{checkpoint} -o m --force"));
        assert_eq!((code, said.as_str()), (0, ""));
        assert!(summary.contains("read          hub/config.json"), "{summary}");
        let model = bench.model("m");
        assert_eq!(
            (model.config().output_stride, &*model.config().aspp_rates),
            (8, &[3, 5, 7][..])
        );
    }
    // Another tool's, another model's, or no JSON: of no concern to a checkpoint beside it.
    for other in [&b"{\"_model_class\": \"Unet\"}"[..], b"{\"lr\": 1}", b"[", b"null"] {
        bench.write("config.json", other);
        let (code, _, said) = bench.convert("good.pth -o m --force");
        assert!(
            code == 0 && said.starts_with("warning: good.pth: assumed output stride"),
            "{said}"
        );
    }
}

#[test]
fn class_names_beside_the_checkpoint_are_taken_and_said() {
    let bench = Bench::new();
    let flags = "--output-stride 16 --atrous-rates 6,12,18";
    bench.write("classes.txt", b"a\nb\nc\nd\ne\n");
    bench.write("hub/classes.txt", b"v\nw\nx\ny\nz\n");
    let names = |checkpoint: &str, path: &str| {
        let (code, _, said) = bench.convert(&format!("{checkpoint} -o m --force {flags}"));
        assert_eq!((code, said), (0, format!("class names from {path}\n")));
        bench.model("m").config().classes.concat()
    };
    assert_eq!(names("good.pth", "classes.txt"), "abcde");
    assert_eq!(names("hub", "hub/classes.txt"), "vwxyz");
    bench.write("good.classes.txt", b"f\ng\nh\ni\nj\n");
    assert_eq!(names("good.pth", "good.classes.txt"), "fghij");
    let (_, _, said) =
        bench.convert(&format!("good.pth -o m --force {flags} --classes classes.txt"));
    assert_eq!(said, "");
    assert_eq!(bench.model("m").config().classes.concat(), "abcde");
    bench.write("good.classes.txt", b"f\ng\n");
    let (code, _, said) = bench.convert("good.pth -o m --force");
    assert_eq!(code, 1);
    assert!(said.ends_with("found 2; give the right file with --classes\n"), "{said}");
}

/// A pipe would block for ever, a device has no end.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_as_checkpoints_configurations_and_models() {
    let bench = Bench::new();
    let pipe = |name: &str| {
        let path = bench.0.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    pipe("pipe");
    for input in ["pipe", "/dev/zero"] {
        let (code, _, said) = bench.convert(&format!("{input} -o m"));
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("expected a checkpoint, found a device or pipe"), "{said}");
    }
    for input in [&bench.0.path().join("pipe"), Path::new("/dev/zero")] {
        let error = Model::load(input).unwrap_err().to_string();
        assert!(error.contains("expected a model written by `ddu convert`"), "{error}");
        assert!(error.contains("found a pipe, socket or device"), "{error}");
    }
    // Beside a file it is of no concern; in a hub folder it is no configuration.
    pipe("config.json");
    assert_eq!(bench.convert("good.pth -o m").0, 0);
    std::fs::remove_file(bench.0.path().join("hub/config.json")).unwrap();
    pipe("hub/config.json");
    let (code, _, said) = bench.convert("hub -o n");
    assert!(code == 1 && said.contains("a checkpoint, or a folder with config.json"), "{said}");
}

#[test]
fn class_names_cannot_break_a_line_of_the_summary_or_steer_a_terminal() {
    let bench = Bench::new();
    bench.write("names.txt", "a\u{1b}[31m\nb\u{202e}\nc\nd\ne\n".as_bytes());
    let (code, summary, _) = bench.convert("good.pth -o m --classes names.txt");
    assert_eq!(code, 0);
    assert!(summary.contains(r"5: a\u{1b}[31m, b\u{202e}, c, d, e"), "{summary}");
    assert!(!summary.contains(['\u{1b}', '\u{202e}']), "{summary:?}");
}

#[test]
fn nothing_that_is_read_is_overwritten() {
    let bench = Bench::new();
    bench.write("names.txt", b"a\nb\nc\nd\ne\n");
    bench.write("good.classes.txt", b"a\nb\nc\nd\ne\n");
    for (arguments, output) in [
        ("good.pth -o good.pth", "good.pth"),
        ("good.pth -o ./hub/../good.pth", "good.pth"),
        ("good.pth -o good.classes.txt", "good.classes.txt"),
        ("good.pth --classes names.txt -o names.txt", "names.txt"),
        ("hub -o hub/model.safetensors", "hub/model.safetensors"),
        ("hub -o hub/config.json", "hub/config.json"),
        ("hub/model.safetensors -o hub/config.json", "hub/config.json"),
    ] {
        let before = bench.read(output);
        let (code, _, said) = bench.convert(&format!("{arguments} --force"));
        assert_eq!(code, 2, "{arguments}: {said}");
        assert!(said.contains("is an input of this command"), "{arguments}: {said}");
        assert!(before == bench.read(output), "{arguments}");
    }
    assert!(Path::new(&bench.0.path().join("hub/config.json")).exists());
}
