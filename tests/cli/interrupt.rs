//! SIGINT and SIGTERM in the middle of a list: what is done is kept, one line says how to go on, and going
//! on gives what an uninterrupted run gives.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fit::{TRAIN, bytes, fit, ok, scenes};
use crate::{Bench, Outcome};

pub const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

/// `ddu` under way; the arguments are split at spaces.
pub fn spawn(bench: &Bench, arguments: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ddu"))
        .args(arguments.split_whitespace())
        .current_dir(bench.folder.path())
        .env("RAYON_NUM_THREADS", "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
}

/// Of a run that ended by itself.
pub fn end(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("it was not killed");
    Outcome { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until `there` holds; false where the run ended before.
pub fn wait_until(child: &mut Child, there: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !there() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it neither goes on nor ends");
        sleep(Duration::from_millis(1));
    }
    true
}

/// `in/00.png` and on: one picture under many names.
pub fn pictures(bench: &Bench, count: usize, h: u32, w: u32) {
    bench.picture("in/00.png", h, w, 3);
    for i in 1..count {
        std::fs::hard_link(bench.path("in/00.png"), bench.path(&format!("in/{i:02}.png"))).unwrap();
    }
}

/// The content of the files beneath a folder.
pub fn contents(bench: &Bench, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let content = std::fs::read(bench.path(folder).join(&name)).unwrap();
        (name, content)
    };
    bench.files(folder).into_iter().map(read).collect()
}

pub fn temporary(bench: &Bench) -> Vec<String> {
    bench.files(".").into_iter().filter(|name| name.contains(".ddu-")).collect()
}

fn interrupted(outcome: &Outcome, code: i32, how: &str) {
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    let lines: Vec<&str> =
        outcome.stderr.lines().filter(|line| line.contains("interrupted")).collect();
    assert!(lines.len() == 1 && lines[0].contains(how), "{}", outcome.stderr);
}

#[test]
fn infer_keeps_whole_images_and_goes_on() {
    let bench = Bench::new();
    pictures(&bench, 40, 120, 160);
    ok(bench.infer("in -o whole"));
    let whole = contents(&bench, "whole");
    for (name, code) in SIGNALS {
        let run = format!("infer -m model.safetensors in -o {name} --json {name}.json");
        let mut child = spawn(&bench, &run);
        assert!(wait_until(&mut child, || bench.path(name).join("02.label.png").exists()));
        signal(&child, name);
        interrupted(&end(child), code, "the same command with --skip-existing goes on");
        assert_eq!(temporary(&bench), [""; 0]);
        let part = contents(&bench, name);
        assert!(part.len() < whole.len() && part.len().is_multiple_of(2), "{} files", part.len());
        assert!(part.iter().all(|(file, content)| whole[file] == *content));
        // The report has what was done.
        let report: serde_json::Value =
            serde_json::from_slice(&bytes(&bench, &format!("{name}.json"))).unwrap();
        assert_eq!(report["images"].as_array().unwrap().len(), part.len() / 2);
        let rest = ok(bench.infer(&format!("in -o {name} --skip-existing")));
        assert!(
            rest.stderr.contains(&format!("; {} were there", part.len() / 2)),
            "{}",
            rest.stderr
        );
        assert!(contents(&bench, name) == whole);
    }
}

#[test]
fn fit_writes_a_checkpoint_and_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    scenes(&bench, 40);
    ok(fit(&bench, &format!("{TRAIN} -o whole")));
    for (name, code) in SIGNALS {
        let options = format!("fit -m model.safetensors {TRAIN} -o {name} --checkpoint-every 2");
        let partial = bench.path(&format!("{name}.partial"));
        let mut child = spawn(&bench, &options);
        assert!(wait_until(&mut child, || partial.exists()));
        signal(&child, name);
        let outcome = end(child);
        interrupted(&outcome, code, "of 40 pairs are done; the same command with --resume goes on");
        assert_eq!(temporary(&bench), [""; 0]);
        assert!(partial.exists() && !bench.path(name).exists());
        ok(fit(&bench, &format!("{TRAIN} -o {name} --checkpoint-every 2 --resume")));
        assert!(!partial.exists());
        assert!(bytes(&bench, name) == bytes(&bench, "whole"), "{name}: other bytes");
    }
}

#[test]
fn eval_ends_and_writes_nothing() {
    let bench = Bench::new();
    scenes(&bench, 60);
    for (name, code) in SIGNALS {
        let mut child = spawn(&bench, &format!("eval -m model.safetensors {TRAIN} -o {name}"));
        // Its first line comes right before the list.
        let mut said = [0; 1];
        child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
        sleep(Duration::from_millis(20));
        signal(&child, name);
        interrupted(&end(child), code, "nothing was written");
        assert_eq!(bench.files(name), [""; 0]);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let bench = Bench::new();
    pictures(&bench, 1, 1600, 2000);
    let mut child = spawn(&bench, "infer -m model.safetensors in -o out");
    let mut said = [0; 1];
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    sleep(Duration::from_millis(100));
    signal(&child, "TERM");
    sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "the image under way goes on");
    signal(&child, "INT");
    interrupted(&end(child), 130, "interrupted");
    assert_eq!(bench.files("out"), [""; 0]);
}
