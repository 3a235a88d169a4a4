//! Mutants: one instruction of a kernel's PTX changed (`change`), and its cases run on the interpreter. One that no case, error
//! or note of the interpreter notices is a hole in the tests, or changes nothing: tests/ptx/survivors.md explains those found.
//!
//! `DDU_MUTANTS=50 cargo test --features simt --test kernels -- --ignored --nocapture one_instruction` tries so many of each
//! kernel: seconds each, minutes for those of the density. `DDU_MUTANTS_SEED` draws others, `DDU_MUTANTS_KERNELS=stem,resize` takes
//! these kernels alone, `DDU_MUTANTS_LINES=120,130` every change of these lines of their PTX file.

mod change;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ptx;
use crate::ptx_cases::{SLOW, compiler, environment, options};
use crate::standin::stand_in;
use crate::support::Random;
use change::{Change, changes};

/// Kernels (the start of their names), the architecture whose PTX is changed, and the cases (parts of names).
const KERNELS: [(&str, &str, &str); 20] = [
    ("arg_max", "80", "grid::the_predicted"),
    ("clip", "80", "clip::"),
    ("conv2d_hopper", "90a", "conv2d_hopper::"),
    ("conv2d_", "80", "conv2d::"),
    ("density_hopper", "90a", "density::"),
    ("density_", "80", "density::"),
    ("depthwise", "80", "depthwise::"),
    ("dropout", "80", "dropout::"),
    ("gather", "80", "gather::"),
    ("global_average", "80", "pool::"),
    ("head", "80", "head::"),
    ("label_grid", "80", "grid::"),
    ("logit_scores", "80", "head::"),
    ("max_pool", "80", "pool::"),
    ("mixture_", "80", "mixture::"),
    ("moments_", "80", "moments::"),
    ("preprocess", "80", "preprocess::"),
    ("resize", "80", "resize::"),
    ("stem", "80", "stem::"),
    ("upsample", "80", "grid::maps"),
];

/// The time that a changed kernel gets, as a multiple of what the sound one takes, and more.
const PATIENCE: (u32, Duration) = (8, Duration::from_secs(10));

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// Nothing noticed.
    Passed,
    Failed(String),
    TimeOut,
    /// The interpreter does not read it: no mutant.
    Invalid,
}

struct Run {
    end: End,
    log: String,
    time: Duration,
}

/// A kernel to change, and how its cases are run.
struct Subject {
    kernel: &'static str,
    architecture: &'static str,
    /// Of the sound module, and its file's name.
    text: String,
    file: String,
    /// Lines (from 0) of instructions that the cases reach.
    lines: Vec<usize>,
    /// The ways in which it runs, and limits of their time.
    ways: Vec<(usize, Duration)>,
}

/// The three ways that the cases are run, the quicker first: those that take a second, the same under races and a random order
/// of warps, all of them.
const WAYS: [(bool, &[(&str, &str)]); 3] =
    [(false, &[]), (false, &[("DDU_PTX_RACES", "1"), ("DDU_PTX_SEED", "1")]), (true, &[])];

fn row(kernel: &str) -> &'static (&'static str, &'static str, &'static str) {
    let row = KERNELS.iter().find(|row| kernel.starts_with(row.0));
    row.unwrap_or_else(|| panic!("no cases of {kernel}"))
}

/// Runs a kernel's cases in a process of their own on the PTX of a folder.
fn run(folder: &Path, kernel: &str, way: usize, limit: Duration) -> Run {
    let (_, architecture, cases) = *row(kernel);
    let files = tempfile::tempdir().unwrap();
    let (log, said) = (files.path().join("log"), files.path().join("said"));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([cases, "--test-threads", "1"]).args(["--skip", "mutants::"]);
    let (all, more) = WAYS[way];
    // Of the density's kernels no other runs, which makes these two quick; splits are merged behind any.
    let density = cases == "density::";
    if density {
        let tile = if kernel == "density_merge" { "density_64" } else { kernel };
        // Its real features take longer than all its other cases together.
        command.env("DDU_TEST_DENSITY", tile).args(["--skip", "real_features"]);
    }
    let quick = ["early_exit", "without_predicted", "far_and_broken"];
    let quick = |name: &str| density && quick.contains(&name);
    if !all {
        let slow = SLOW.iter().filter(|name| !quick(name));
        command.args(slow.flat_map(|name| ["--skip", name]));
    }
    stand_in(&mut command, &ptx::driver(), options(architecture), &files.path().join("calls"));
    command.envs(environment(folder, &log)).envs(more.iter().copied());
    command.env("DDU_PTX_UNREACHED", "2");
    let out = File::create(&said).unwrap();
    command.stderr(out.try_clone().unwrap()).stdout(out);
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let read = |path: &PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    let (log, said) = (read(&log), read(&said));
    let found = log.lines().find(|line| line.starts_with("note ") || line.starts_with("ERROR "));
    let end = match (status, found) {
        (None, _) => End::TimeOut,
        _ if said.contains("ptx: ") => End::Invalid,
        (_, Some(line)) => End::Failed(line.into()),
        (Some(status), None) if status.success() && !said.contains(" 0 passed") => End::Passed,
        _ => End::Failed("a case fails".into()),
    };
    Run { end, log, time: start.elapsed() }
}

/// The lines of a module (from 0) where a kernel's body is.
fn body(text: &str, kernel: &str) -> std::ops::Range<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let entry = format!(".visible .entry {kernel}(");
    let start = lines.iter().position(|line| line.starts_with(&entry)).expect("an entry");
    // The text of some words has braces of its own.
    let mut depth = 0;
    let length = lines[start..].iter().position(|line| {
        depth += line.matches('{').count();
        depth -= line.matches('}').count();
        depth == 0 && line.starts_with('}')
    });
    start..start + length.expect("its end")
}

impl Subject {
    /// Runs the sound kernel: its cases must pass, and say which instructions they reach.
    fn new(kernel: &'static str, nvcc: &Path) -> Self {
        let architecture = row(kernel).1;
        let folder = ptx::ptx(nvcc, architecture);
        let of = ddu::device::kernels::all().find(|k| k.name == kernel).unwrap();
        let file = format!("{}.ptx", of.file);
        let text = std::fs::read_to_string(folder.join(&file)).unwrap();
        let mut unreached: Option<BTreeSet<usize>> = None;
        let mut ways = Vec::new();
        for way in 0..WAYS.len() {
            let sound = run(&folder, kernel, way, Duration::from_secs(900));
            assert_eq!(sound.end, End::Passed, "{kernel}, unchanged");
            if !sound.log.contains(&format!("kernel {kernel} ")) {
                continue;
            }
            ways.push((way, sound.time * PATIENCE.0 + PATIENCE.1));
            let place = |line: &str| {
                let line = line.strip_prefix("unreached ")?.strip_prefix(&file)?;
                line.strip_prefix(':')?.split(' ').next()?.parse::<usize>().ok()
            };
            let these: BTreeSet<usize> = sound.log.lines().filter_map(place).collect();
            unreached = Some(match unreached {
                Some(known) => &known & &these,
                None => these,
            });
        }
        let unreached = unreached.unwrap_or_else(|| panic!("{kernel} never ran"));
        let lines = body(&text, kernel).filter(|i| !unreached.contains(&(i + 1))).collect();
        Subject { kernel, architecture, text, file, lines, ways }
    }

    /// What becomes of the kernel with another line.
    fn try_out(&self, line: usize, change: &Change, nvcc: &Path) -> End {
        let folder = tempfile::tempdir().unwrap();
        for path in ptx::files(&ptx::ptx(nvcc, self.architecture), &["ptx"]) {
            let name = path.file_name().unwrap();
            if name.to_str() != Some(&self.file) {
                std::fs::hard_link(&path, folder.path().join(name))
                    .or_else(|_| std::fs::copy(&path, folder.path().join(name)).map(drop))
                    .unwrap();
            }
        }
        let mut file = File::create(folder.path().join(&self.file)).unwrap();
        for (i, text) in self.text.lines().enumerate() {
            writeln!(file, "{}", if i == line { &change.text } else { text }).unwrap();
        }
        let ends = self.ways.iter().map(|way| run(folder.path(), self.kernel, way.0, way.1).end);
        ends.into_iter().find(|end| *end != End::Passed).unwrap_or(End::Passed)
    }

    /// Up to `count` mutants, of every kind as many: (line, change).
    fn draw(&self, count: usize, seed: u64) -> Vec<(usize, Change)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let all = self.lines.iter().flat_map(|i| changes(&lines, *i).into_iter().map(|c| (*i, c)));
        let mut left: Vec<(usize, Change)> = all.collect();
        if let Some(wanted) = list(LINES) {
            left.retain(|(i, _)| wanted.contains(&(i + 1).to_string()));
            return left;
        }
        let mut random = Random(seed);
        let mut drawn = Vec::new();
        while drawn.len() < count && !left.is_empty() {
            let kinds: BTreeSet<&str> = left.iter().map(|(_, change)| change.kind).collect();
            let kind = *kinds.iter().nth(random.next() as usize % kinds.len()).unwrap();
            let of_kind: Vec<usize> = (0..left.len()).filter(|i| left[*i].1.kind == kind).collect();
            drawn.push(left.swap_remove(of_kind[random.next() as usize % of_kind.len()]));
        }
        drawn
    }
}

/// Names lines whose every change is tried.
const LINES: &str = "DDU_MUTANTS_LINES";

/// The words of a variable of the environment.
fn list(name: &str) -> Option<Vec<String>> {
    let words = std::env::var(name).ok()?;
    Some(words.split(',').map(String::from).collect())
}

/// Tries `count` mutants of each kernel; prints a line for each, and the sums; (killed, tried).
fn campaign(kernels: &[&'static str], count: usize, seed: u64) -> Option<(usize, usize)> {
    let nvcc = compiler()?;
    let mut sums = (0, 0);
    for &kernel in kernels {
        let subject = Subject::new(kernel, &nvcc);
        let lines: Vec<&str> = subject.text.lines().collect();
        let mut ends = Vec::new();
        // What the interpreter does not read is drawn in vain: some more.
        for (line, change) in subject.draw(count * 2, seed) {
            let end = subject.try_out(line, &change, &nvcc);
            let said = match &end {
                End::Passed => "SURVIVES".into(),
                End::Failed(why) => format!("killed ({why:.60})"),
                End::TimeOut => "killed (time)".to_owned(),
                End::Invalid => continue,
            };
            let (place, from) = (format!("{}:{}", subject.file, line + 1), lines[line].trim());
            println!("{said} {kernel} {place} {}: {from} -> {}", change.kind, change.text.trim());
            ends.push(end);
            if ends.len() == count && list(LINES).is_none() {
                break;
            }
        }
        let survived = ends.iter().filter(|end| **end == End::Passed).count();
        let late = ends.iter().filter(|end| **end == End::TimeOut).count();
        println!(
            "{kernel} (sm_{}, {} of {} lines reached): {} mutants, {survived} survive, {late} too long",
            subject.architecture,
            subject.lines.len(),
            body(&subject.text, kernel).len(),
            ends.len()
        );
        sums = (sums.0 + ends.len() - survived, sums.1 + ends.len());
    }
    Some(sums)
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
#[ignore = "minutes; the head of the file says how to start it"]
fn one_instruction_of_every_kernel() {
    let wanted = list("DDU_MUTANTS_KERNELS");
    let taken = |name: &&str| wanted.as_ref().is_none_or(|list| list.iter().any(|w| w == name));
    let kernels: Vec<&str> = ddu::device::kernels::all().map(|k| k.name).filter(taken).collect();
    let (count, seed) = (number("DDU_MUTANTS", 10), number("DDU_MUTANTS_SEED", 1));
    if let Some((killed, tried)) = campaign(&kernels, count as usize, seed) {
        println!("seed {seed}: {killed} of {tried} mutants were killed");
        assert!(tried > 0, "no kernel of {wanted:?}");
    }
}

#[test]
fn a_body_ends_where_its_entry_does() {
    let text = "x\n.visible .entry k(\n)\n{\nmov {a, b}, c;\n{\nadd;\n}\nret;\n}\n.visible .entry l(\n)\n{\n}\n";
    assert_eq!((body(text, "k"), body(text, "l")), (1..9, 10..13));
}

#[test]
fn every_kernel_has_cases() {
    ddu::device::kernels::all().for_each(|kernel| assert!(!row(kernel.name).2.is_empty()));
}

/// The survivors that are explained (tests/ptx/survivors.md) are told by kernel and source, which must still be there: what was
/// rewritten has to be tried again.
#[test]
fn every_survivor_is_still_in_the_source() {
    let read = |path: &str| std::fs::read_to_string(ptx::project().join(path)).unwrap();
    let text = read("tests/ptx/survivors.md");
    let headers = ptx::files(&ptx::project().join("kernels/common"), &["cuh"]);
    let headers: String =
        headers.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let (_, section) = text.split_once("\n## Survivors").expect("the section of survivors");
    let mut quotes = 0;
    for row in section.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for name in cells[1].split(", ") {
            let kernel = ddu::device::kernels::all().find(|kernel| kernel.name == name);
            let kernel = kernel.unwrap_or_else(|| panic!("no kernel {name}: {row}"));
            let source = read(&format!("kernels/{}.cu", kernel.file));
            for quote in cells[2].split('`').skip(1).step_by(2) {
                let there = source.contains(quote) || headers.contains(quote);
                assert!(there, "{name}: no `{quote}` in its source: {row}");
                quotes += 1;
            }
        }
    }
    assert!(quotes > 20, "{quotes} quotes");
}

/// Of the cheapest kernels, so that the check itself is checked.
#[test]
fn a_handful_of_mutants() {
    if let Some((killed, tried)) = campaign(&["gather", "preprocess"], 10, 1) {
        assert!(tried == 20 && killed >= 15, "{killed} of {tried} mutants were killed");
    }
}
