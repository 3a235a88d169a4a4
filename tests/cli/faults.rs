//! Faults from outside: kills, full disks, folders without rights, files that change under a run, two runs
//! into one output. Nothing is lost, nothing is half written, and the exit code is the right one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fit::{TRAIN, bytes, fit, ok, scenes};
use crate::interrupt::{contents, end, pictures, spawn, temporary, wait_until};
use crate::models::Rng;
use crate::{Bench, Outcome};

const MODEL: &str = "-m model.safetensors";

/// Kills `arguments` after a part of `whole` that `rng` picks; false where it ended before.
fn kill(bench: &Bench, arguments: &str, whole: Duration, rng: &mut Rng) -> bool {
    let part = f64::from(rng.uniform() + 1.0) / 2.0;
    let mut child = spawn(bench, arguments);
    sleep(whole.mul_f64(part));
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

#[test]
fn fit_killed_at_50_moments_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    scenes(&bench, 8);
    let run = format!("fit {MODEL} {TRAIN} --checkpoint-every 1 -o");
    let start = Instant::now();
    assert_eq!(end(spawn(&bench, &format!("{run} whole"))).code, 0);
    let (whole, time) = (bytes(&bench, "whole"), start.elapsed());
    let (mut rng, mut kills, mut resumed) = (Rng(50), 0, 0);
    while kills < 50 {
        kills += usize::from(kill(&bench, &format!("{run} d"), time, &mut rng));
        if !bench.path("d").exists() {
            resumed += usize::from(bench.path("d.partial").exists());
            ok(fit(&bench, &format!("{TRAIN} --checkpoint-every 1 -o d --resume")));
        }
        assert!(bytes(&bench, "d") == whole, "other bytes after {kills} kills");
        std::fs::remove_file(bench.path("d")).unwrap();
        // A kill between the density and the end of its checkpoint leaves that.
        let _ = std::fs::remove_file(bench.path("d.partial"));
    }
    assert!(resumed >= 5, "only {resumed} of {kills} kills left a checkpoint");
}

#[test]
fn infer_killed_at_20_moments_leaves_whole_files_and_goes_on() {
    let bench = Bench::new();
    pictures(&bench, 8, 60, 80);
    let start = Instant::now();
    assert_eq!(end(spawn(&bench, &format!("infer {MODEL} in -o whole"))).code, 0);
    let (whole, time) = (contents(&bench, "whole"), start.elapsed());
    let (mut rng, mut kills) = (Rng(20), 0);
    while kills < 20 {
        kills += usize::from(kill(&bench, &format!("infer {MODEL} in -o in/out"), time, &mut rng));
        let results = || {
            let mut files = contents(&bench, "in/out");
            // A kill may leave one; a dot hides it from every later run.
            files.retain(|name, _| !name.starts_with(".ddu-"));
            files
        };
        for (name, content) in results() {
            assert!(whole[&name] == content, "{name}: half written");
        }
        // Neither it nor results are taken for images.
        ok(bench.infer("in -o in/out --skip-existing"));
        assert!(results() == whole, "after {kills} kills");
        std::fs::remove_dir_all(bench.path("in/out")).unwrap();
    }
}

#[test]
fn temporary_files_that_a_kill_left_are_no_inputs() {
    let bench = Bench::new();
    scenes(&bench, 3);
    for folder in ["JPEGImages", "SegmentationClass"] {
        let file = |name: &str| bench.path("voc").join(folder).join(name);
        std::fs::copy(file("s000.png"), file(".ddu-left.png")).unwrap();
    }
    for inputs in ["voc/JPEGImages", "voc/JPEGImages/*"] {
        ok(bench.infer(&format!("{inputs} -o out --force")));
        assert_eq!(bench.files("out").len(), 6, "{inputs}: {:?}", bench.files("out"));
    }
    let pairs = "--images voc/JPEGImages --masks voc/SegmentationClass";
    let outcome = ok(fit(&bench, &format!("{pairs} -o d")));
    assert!(outcome.stderr.contains("of 3 images"), "{}", outcome.stderr);
}

/// `ddu` under limits that `ulimit` sets.
fn limited(bench: &Bench, limit: &str, arguments: &str) -> Outcome {
    let script = format!("ulimit {limit}; exec {} {arguments}", env!("CARGO_BIN_EXE_ddu"));
    let child = Command::new("bash")
        .args(["-c", &script])
        .current_dir(bench.folder.path())
        .env("RAYON_NUM_THREADS", "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    end(child)
}

#[test]
fn files_beyond_the_limit_of_their_size_fail_alone() {
    let bench = Bench::new();
    scenes(&bench, 4);
    bench.picture("in/large.png", 120, 160, 0);
    bench.picture("in/small.png", 16, 16, 0);
    // 8 KiB: the entropies of the small image fit.
    let outcome = limited(&bench, "-f 8", &format!("infer {MODEL} in -o out"));
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("large.entropy.npy: cannot write"), "{}", outcome.stderr);
    assert_eq!(bench.files("out"), ["small.entropy.npy", "small.label.png"]);
    let outcome = limited(&bench, "-f 1", &format!("fit {MODEL} {TRAIN} -o d -q"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("error: d: cannot write"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(!bench.path("d").exists());
    assert_eq!(temporary(&bench), [""; 0]);
}

/// A file system of some KiB, where the tests may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, kib: u32) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(SmallDisk(at))
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let mount = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(mount.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_run_that_goes_on_once_there_is_room() {
    let bench = Bench::new();
    scenes(&bench, 4);
    pictures(&bench, 8, 60, 80);
    let Some(disk) = SmallDisk::mount(bench.path("disk"), 64) else {
        eprintln!("skipped: no right to mount a small file system");
        return;
    };
    ok(bench.infer("in -o whole"));
    ok(fit(&bench, &format!("{TRAIN} -o whole.density")));
    let outcome = bench.infer("in -o disk/out");
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    let last = outcome.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: disk/out/") && last.contains("cannot write"), "{last}");
    let (whole, part) = (contents(&bench, "whole"), contents(&bench, "disk/out"));
    assert!(!part.is_empty() && part.len() < whole.len(), "{} files", part.len());
    assert!(part.iter().all(|(name, content)| whole[name] == *content));
    let outcome = fit(&bench, &format!("{TRAIN} -o disk/d --checkpoint-every 2 -q"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert_eq!(temporary(&bench), [""; 0]);
    assert!(!bench.path("disk/d").exists());
    disk.remount("size=4m");
    ok(bench.infer("in -o disk/out --skip-existing"));
    assert!(contents(&bench, "disk/out") == whole);
    ok(fit(&bench, &format!("{TRAIN} -o disk/d --checkpoint-every 2 --resume")));
    assert!(bytes(&bench, "disk/d") == bytes(&bench, "whole.density"));
    // A file system without rights to write, which root has nowhere.
    disk.remount("ro");
    for command in [
        format!("infer {MODEL} in -o disk/new"),
        format!("fit {MODEL} {TRAIN} -o disk/e"),
        format!("eval {MODEL} {TRAIN} -o disk"),
    ] {
        let outcome = end(spawn(&bench, &command));
        assert_eq!(outcome.code, 1, "{command}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{command}: {}", outcome.stderr);
        assert!(
            outcome.stderr.to_lowercase().contains("read-only"),
            "{command}: {}",
            outcome.stderr
        );
    }
}

/// `ddu` as a user without rights; None where that cannot be.
fn nobody(bench: &Bench, arguments: &str) -> Option<Outcome> {
    let mut command = vec![env!("CARGO_BIN_EXE_ddu")];
    command.extend(arguments.split_whitespace());
    as_user(bench, "65534", &command)
}

/// A program as a user of this number; None where that cannot be.
fn as_user(bench: &Bench, user: &str, program: &[&str]) -> Option<Outcome> {
    let run = |program: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", "65534", "--clear-groups"]).args(program);
        command.current_dir(bench.folder.path()).env("RAYON_NUM_THREADS", "1");
        command.env("CUDA_VISIBLE_DEVICES", "").stdin(Stdio::null()).output()
    };
    if !run(&["true"]).is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no right to run ddu as another user");
        return None;
    }
    let output = run(program).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Some(Outcome { code, stdout: text(output.stdout), stderr: text(output.stderr) })
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_a_user_may_not_read_or_write_is_named() {
    let bench = Bench::new();
    scenes(&bench, 3);
    pictures(&bench, 1, 16, 16);
    for name in ["in/locked.png", "in/closed/9.png"] {
        bench.picture(name, 16, 16, 9);
    }
    mode(bench.folder.path(), 0o755);
    mode(&bench.path("in/locked.png"), 0);
    mode(&bench.path("in/closed"), 0);
    std::fs::create_dir(bench.path("open")).unwrap();
    mode(&bench.path("open"), 0o777);
    let Some(outcome) = nobody(&bench, &format!("infer {MODEL} in -o open")) else { return };
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    for name in ["in/locked.png", "in/closed"] {
        let line = outcome.stderr.lines().find(|line| line.contains(name)).expect(name);
        assert!(line.starts_with("warning: skipped: ") && line.contains("denied"), "{line}");
    }
    assert_eq!(bench.files("open"), ["00.entropy.npy", "00.label.png"]);
    // Nothing may be written: said before any work.
    for command in [
        format!("infer {MODEL} in/00.png -o out"),
        format!("infer {MODEL} in/00.png -o ."),
        format!("fit {MODEL} {TRAIN} -o d"),
        format!("eval {MODEL} {TRAIN} -o out"),
    ] {
        let outcome = nobody(&bench, &command).unwrap();
        assert_eq!(outcome.code, 1, "{command}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{command}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("denied"), "{command}: {}", outcome.stderr);
    }
    mode(&bench.path("model.safetensors"), 0);
    let outcome = nobody(&bench, &format!("infer {MODEL} in/00.png -o open --force")).unwrap();
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("error: model.safetensors: cannot read"));
}

#[test]
fn files_that_change_during_a_run_cost_themselves_alone() {
    let bench = Bench::new();
    pictures(&bench, 40, 120, 160);
    ok(bench.infer("in -o whole"));
    // Files of their own, not further names of the one picture.
    let last = ["in/37.png", "in/38.png", "in/39.png"].map(|name| bench.path(name));
    let picture = bytes(&bench, "in/00.png");
    for path in &last {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, &picture).unwrap();
    }
    let mut child = spawn(&bench, &format!("infer {MODEL} in -o out"));
    assert!(wait_until(&mut child, || bench.path("out/02.label.png").exists()));
    std::fs::remove_file(&last[0]).unwrap();
    std::fs::write(&last[1], &picture[..picture.len() / 2]).unwrap();
    std::fs::write(&last[2], b"text").unwrap();
    let outcome = end(child);
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    for name in ["in/37.png", "in/38.png", "in/39.png"] {
        let named = |line: &str| line.starts_with("warning: skipped: ") && line.contains(name);
        assert!(outcome.stderr.lines().any(named), "{name}: {}", outcome.stderr);
    }
    let (whole, part) = (contents(&bench, "whole"), contents(&bench, "out"));
    assert_eq!(part.len(), whole.len() - 6);
    assert!(part.iter().all(|(name, content)| whole[name] == *content));
}

#[test]
fn pairs_that_go_during_a_fit_are_skipped_and_named() {
    let bench = Bench::new();
    scenes(&bench, 40);
    let mut child = spawn(&bench, &format!("fit {MODEL} {TRAIN} -o d --checkpoint-every 2"));
    assert!(wait_until(&mut child, || bench.path("d.partial").exists()));
    std::fs::remove_file(bench.path("voc/JPEGImages/s038.png")).unwrap();
    std::fs::write(bench.path("voc/SegmentationClass/s039.png"), b"").unwrap();
    let outcome = end(child);
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    for name in ["skipped s038: ", "skipped s039: ", "; 2 pairs skipped"] {
        assert!(outcome.stderr.contains(name), "{}", outcome.stderr);
    }
    // The same as a fit without them.
    let ids: Vec<String> = (0..38).map(|i| format!("s{i:03}")).collect();
    bench.write("voc/ImageSets/Segmentation/train.txt", ids.join("\n").as_bytes());
    ok(fit(&bench, &format!("{TRAIN} -o without")));
    assert!(bytes(&bench, "d") == bytes(&bench, "without"));
}

#[test]
fn two_runs_into_one_output_leave_whole_files() {
    let bench = Bench::new();
    scenes(&bench, 12);
    pictures(&bench, 12, 60, 80);
    ok(bench.infer("in -o whole"));
    ok(fit(&bench, &format!("{TRAIN} -o whole.density")));
    for force in ["", "--force"] {
        let infer = format!("infer {MODEL} in -o out {force}");
        let fit = format!("fit {MODEL} {TRAIN} -o d --checkpoint-every 2 {force}");
        for run in [infer, fit] {
            let two = [spawn(&bench, &run), spawn(&bench, &run)].map(end);
            for outcome in &two {
                // The later one may find that its output is there, or an unfinished fit.
                let refused = force.is_empty() && outcome.code == 2;
                assert!(outcome.code == 0 || refused, "{run}: {}", outcome.stderr);
            }
            assert!(two.iter().any(|outcome| outcome.code == 0), "{run}");
        }
        assert!(contents(&bench, "out") == contents(&bench, "whole"));
        assert!(bytes(&bench, "d") == bytes(&bench, "whole.density"));
        assert_eq!(temporary(&bench), [""; 0]);
    }
}

/// A gray picture of one colour: few bytes, many pixels.
fn plain(bench: &Bench, name: &str, h: u32, w: u32) {
    let path = bench.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::GrayImage::new(w, h).save(path).unwrap();
}

#[test]
fn large_images_are_refused_before_they_are_decoded() {
    let bench = Bench::new();
    plain(&bench, "in/0.png", 9000, 9000);
    for i in 1..8 {
        std::fs::hard_link(bench.path("in/0.png"), bench.path(&format!("in/{i}.png"))).unwrap();
    }
    bench.picture("in/small.png", 16, 16, 0);
    // Decoded together, the large ones would take 1.9 GB; each one's plan takes more than is there.
    let run = format!("infer {MODEL} in -o out --batch 8");
    let script = format!("ulimit -v 1500000; exec {} {run}", env!("CARGO_BIN_EXE_ddu"));
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .current_dir(bench.folder.path())
        .env("RAYON_NUM_THREADS", "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.unwrap_or_default();
        let line = line.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        peak_kib = line.and_then(|kib| kib.trim().parse().ok()).unwrap_or(peak_kib);
        sleep(Duration::from_millis(1));
    }
    let outcome = end(child);
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("needs").count(), 8, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("would fit").count(), 8, "{}", outcome.stderr);
    assert_eq!(bench.files("out"), ["small.entropy.npy", "small.label.png"]);
    assert!((1..150_000).contains(&peak_kib), "{peak_kib} KiB");
}

#[test]
fn an_image_beyond_a_limit_of_memory_is_one_line() {
    let bench = Bench::new();
    plain(&bench, "large.png", 4000, 4000);
    let run = format!("infer {MODEL} large.png -o out -q");
    let outcome = limited(&bench, "-v 600000", &format!("{run} --fail-fast"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("error: large.png: 1 image of 4000 x 4000: needs"));
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    let outcome = limited(&bench, "-v 600000", &run);
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
}

#[test]
fn max_pixels_is_respected_by_every_command() {
    let bench = Bench::new();
    scenes(&bench, 3);
    // The scenes have 40 x 56 and 33 x 47 pixels.
    let outcome = bench.infer("voc/JPEGImages -o out --max-pixels 2239");
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("--max-pixels sets the limit").count(), 2);
    assert_eq!(bench.files("out"), ["s002.entropy.npy", "s002.label.png"]);
    ok(bench.infer("voc/JPEGImages -o all --max-pixels 2240"));
    let dry = bench.infer("voc/JPEGImages -o none --max-pixels 2239 --dry-run");
    assert_eq!(dry.code, 3, "{}", dry.stderr);
    for command in ["fit", "eval"] {
        let run = format!("{command} {MODEL} {TRAIN} -o {command} --max-pixels 2239");
        let outcome = end(spawn(&bench, &run));
        assert_eq!(outcome.code, 3, "{command}: {}", outcome.stderr);
        let limit = outcome.stderr.matches("--max-pixels sets the limit").count();
        assert_eq!(limit, 2, "{command}: {}", outcome.stderr);
    }
}

#[test]
fn an_output_that_exists_is_one_code() {
    let bench = Bench::new();
    scenes(&bench, 2);
    ok(bench.infer("voc/JPEGImages -o out"));
    ok(fit(&bench, &format!("{TRAIN} -o d")));
    ok(end(spawn(&bench, &format!("eval {MODEL} {TRAIN} -o out"))));
    let before = contents(&bench, "out");
    let image = "voc/JPEGImages/s000.png";
    for command in [
        format!("infer {MODEL} voc/JPEGImages -o out"),
        format!("fit {MODEL} {TRAIN} -o d"),
        "fit --merge d -o out/results.json".into(),
        format!("eval {MODEL} {TRAIN} -o out"),
        "convert model.safetensors -o d".into(),
        format!("infer {MODEL} {image} -o new --json out/results.json"),
        format!("infer {MODEL} {image} -o new --json out/results.json --dry-run"),
        format!("profile {MODEL} --dry-run --json out/results.json"),
        format!("profile {MODEL} --dry-run --csv out/results.json"),
        format!("compare {MODEL} {image} --device simt --json out/results.json"),
        "demo -o out".into(),
        "demo --scenes out --count 1".into(),
    ] {
        if command.starts_with("compare") && !cfg!(feature = "simt") {
            continue;
        }
        let outcome = end(spawn(&bench, &command));
        assert_eq!(outcome.code, 2, "{command}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(": exists already"), "{command}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{command}: {}", outcome.stderr);
    }
    assert!(contents(&bench, "out") == before);
    ok(end(spawn(&bench, &format!("profile {MODEL} --dry-run --json out/results.json --force"))));
    ok(end(spawn(&bench, "demo --scenes out --count 1 --force")));
    assert!(contents(&bench, "out") != before);
}

/// Three helpers beside the main thread: for signals, for reading and for writing, and one that computes.
#[test]
fn a_thread_that_the_system_refuses_is_one_line() {
    let bench = Bench::new();
    scenes(&bench, 2);
    mode(bench.folder.path(), 0o777);
    for command in [
        format!("infer {MODEL} voc/JPEGImages -o out -q"),
        format!("fit {MODEL} {TRAIN} -o d -q"),
        format!("eval {MODEL} {TRAIN} -o eval -q"),
    ] {
        let mut refused = Vec::new();
        for threads in 1..=16 {
            // A user of its own: the limit counts all threads of a user.
            let script =
                format!("ulimit -u {threads}; exec {} {command}", env!("CARGO_BIN_EXE_ddu"));
            let outcome = as_user(&bench, "65533", &["bash", "-c", &script]);
            let Some(outcome) = outcome else { return };
            if outcome.code == 0 {
                break;
            }
            assert_eq!(outcome.code, 1, "{command}, {threads}: {}", outcome.stderr);
            assert!(!outcome.stderr.contains("panicked"), "{command}: {}", outcome.stderr);
            let line = outcome.stderr.lines().last().unwrap_or_default().to_owned();
            assert!(line.starts_with("error: threads: expected "), "{command}: {line}");
            assert!(line.contains("`ulimit -u`"), "{command}: {line}");
            refused.push(line);
        }
        // Each thread of its own was refused once.
        refused.dedup();
        let fewest = if command.starts_with("fit") { 3 } else { 4 };
        assert_eq!(refused.len(), fewest, "{command}: {refused:?}");
    }
    // The simt device's workers: none is an error, one is enough.
    #[cfg(feature = "simt")]
    {
        let ddu = env!("CARGO_BIN_EXE_ddu");
        let compare = format!("compare {MODEL} voc/JPEGImages/s000.png --device simt");
        let run = |threads: usize| {
            let script = format!("ulimit -u {threads}; exec {ddu} {compare}");
            as_user(&bench, "65533", &["bash", "-c", &script]).unwrap()
        };
        let outcomes = [3, 4].map(run);
        assert_eq!(outcomes.each_ref().map(|o| o.code), [1, 0], "{}", outcomes[0].stderr);
        assert!(outcomes[0].stderr.contains("no thread can be started"), "{}", outcomes[0].stderr);
    }
    assert_eq!(temporary(&bench), [""; 0]);
}

#[test]
fn a_closed_pipe_hides_no_failure() {
    let bench = Bench::new();
    bench.picture("in/1.png", 16, 16, 0);
    bench.write("in/2.png", b"");
    let run = format!("infer {MODEL} in -o out --json -");
    let mut child = spawn(&bench, &run);
    drop(child.stdout.take());
    assert_eq!(end(child).code, 3);
}
