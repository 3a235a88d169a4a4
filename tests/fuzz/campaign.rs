//! Runs a target: its whole corpus, then mutations of it, in a process of its own whose memory is
//! bounded, so that a hang, an abort or an exhausted stack is a failure with a name as a panic is.
//!
//! Input i is drawn from the seed and i alone, and is written to a file when it fails.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ddu::Error;

use crate::random::Random;

/// Set for the process that runs the target: the folder that it works in.
const FOLDER: &str = "DDU_FUZZ_FOLDER";
/// One input may take this long; Miri, which interprets, is hundreds of times slower.
const LIMIT: Duration = Duration::from_secs(if cfg!(miri) { 3600 } else { 2 });
/// An input that takes this long does not end.
const HANG: Duration = Duration::from_secs(30);
/// Address space, in KiB.
const MEMORY: &str = "2097152";

/// What is fed to a reader.
pub struct Target<'a> {
    /// That of the test, of its folder of attack files, and of the file in messages.
    pub name: &'a str,
    /// Good files; the attack files come besides.
    pub good: Vec<Vec<u8>>,
    pub mutate: &'a dyn Fn(&mut Random, Vec<u8>) -> Vec<u8>,
}

impl Target<'_> {
    /// `read` gets each input and the path at which it may have it as a file; an error must be one
    /// line that names the target.
    pub fn run(&self, read: impl Fn(&[u8], &Path) -> Result<(), Error>) {
        let (good, attacks) = (&self.good, attacks(self.name));
        let corpus: Vec<&Vec<u8>> = good.iter().chain(&attacks).collect();
        let input = |seed: u64, i: u64| match corpus.get(i as usize) {
            Some(bytes) => bytes.to_vec(),
            None => {
                let mut random = Random::of(seed, i);
                let mut bytes = draw(&mut random, good, &attacks).clone();
                if random.below(8) == 0 {
                    let other = draw(&mut random, good, &attacks);
                    bytes.truncate(random.below(bytes.len() + 1));
                    bytes.extend(&other[random.below(other.len() + 1)..]);
                }
                (self.mutate)(&mut random, bytes)
            }
        };
        match std::env::var_os(FOLDER) {
            None => self.supervise(input),
            Some(folder) => self.feed(corpus.len(), input, read, Path::new(&folder)),
        }
    }

    /// Runs this test again in a process of its own and says what became of it.
    fn supervise(&self, input: impl Fn(u64, u64) -> Vec<u8>) {
        // Of memory, where there is one: a file per input.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(parent).unwrap();
        let said = folder.path().join("said");
        let program = std::env::current_exe().unwrap();
        let mut command = match cfg!(target_os = "linux") {
            true => {
                let mut shell = Command::new("sh");
                let bounded = format!("ulimit -v {MEMORY}; ulimit -c 0; exec \"$0\" \"$@\"");
                shell.arg("-c").arg(bounded).arg(program);
                shell
            }
            false => Command::new(program),
        };
        command.args([self.name, "--exact", "--nocapture", "--test-threads=1"]);
        command.env(FOLDER, folder.path()).stdin(Stdio::null());
        command.stdout(std::fs::File::create(&said).unwrap());
        command.stderr(std::fs::File::options().append(true).open(&said).unwrap());
        let mut child = command.spawn().unwrap();
        let current = || {
            let bytes = std::fs::read(folder.path().join("current")).unwrap_or_default();
            bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
        };
        let (mut last, mut since) = (current(), Instant::now());
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.to_string();
            }
            std::thread::sleep(Duration::from_millis(50));
            let now = current();
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > HANG {
                child.kill().unwrap();
                child.wait().unwrap();
                break format!("killed after {} s: a hang", HANG.as_secs());
            }
        };
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        let Some(report) = said.lines().find(|line| line.starts_with("fuzz ")) else {
            let (seed, i) = (number("DDU_FUZZ_SEED").unwrap_or(SEED), current());
            let kept = format!("{}/fuzz-{}-{seed}-{i}", env!("CARGO_TARGET_TMPDIR"), self.name);
            std::fs::write(&kept, input(seed, i)).unwrap();
            panic!("{}: seed {seed}, input {i} ({kept}): {status}\n{said}", self.name);
        };
        println!("{report}");
    }

    fn feed(
        &self,
        corpus: usize,
        input: impl Fn(u64, u64) -> Vec<u8>,
        read: impl Fn(&[u8], &Path) -> Result<(), Error>,
        folder: &Path,
    ) {
        static PANIC: Mutex<Option<String>> = Mutex::new(None);
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line()));
            let message = panic.to_string().replace('\n', " ");
            *PANIC.lock().unwrap() = Some(place.unwrap_or_default() + ": " + &message);
        }));
        let seed = number("DDU_FUZZ_SEED").unwrap_or(SEED);
        let iterations = number("DDU_FUZZ_ITERATIONS");
        let seconds = Duration::from_secs(number("DDU_FUZZ_SECONDS").unwrap_or(2));
        let path = folder.join(self.name);
        let mut current = std::fs::File::create(folder.join("current")).unwrap();
        let started = Instant::now();
        let (mut accepted, mut slowest) = (0u64, Duration::ZERO);
        // Where decoders panicked (their reader catches that), how often.
        let mut contained: BTreeMap<String, u64> = BTreeMap::new();
        let mut i = 0;
        let enough = |i: u64| match iterations {
            Some(iterations) => i >= iterations,
            None => started.elapsed() >= seconds,
        };
        while i < corpus as u64 || !enough(i) {
            current.rewind().unwrap();
            current.write_all(&i.to_le_bytes()).unwrap();
            let bytes = input(seed, i);
            let mut took = Duration::MAX;
            // A busy machine may take the processor away once, not three times.
            for _ in 0..3 {
                let begun = Instant::now();
                let result = catch_unwind(AssertUnwindSafe(|| read(&bytes, &path)));
                took = took.min(begun.elapsed());
                let panic = PANIC.lock().unwrap().take();
                match result {
                    Err(_) => self.fail(&format!("panic: {}", panic.unwrap_or_default())),
                    Ok(Ok(())) => accepted += 1,
                    Ok(Err(error)) => {
                        let line = error.to_string();
                        if line.contains(char::is_control) || line.len() > 4000 {
                            self.fail(&format!("no line: {line:?}"));
                        }
                        if !line.contains(self.name) {
                            self.fail(&format!("a line that does not name the file: {line}"));
                        }
                    }
                }
                if let Some(panic) = panic {
                    *contained.entry(panic).or_default() += 1;
                }
                if took < LIMIT {
                    break;
                }
            }
            if took >= LIMIT {
                self.fail(&format!("took {took:?}"));
            }
            slowest = slowest.max(took);
            i += 1;
        }
        let caught: u64 = contained.values().sum();
        println!(
            "\nfuzz {}: {i} inputs in {:.0?}, {accepted} accepted, 0 panics, 0 hangs, 0 aborts; slowest \
             {slowest:.1?}; {caught} decoder panics caught {contained:?}",
            self.name,
            started.elapsed()
        );
    }

    /// For the supervisor to say.
    fn fail(&self, what: &str) -> ! {
        eprintln!("{what}");
        std::process::exit(1)
    }
}

const SEED: u64 = 7;

/// What an input is made of: mostly a good file, since most of an attack file's mutants are refused where it is
/// itself; of two that are drawn the smaller, since many small inputs reach more than a few large ones.
fn draw<'a>(random: &mut Random, good: &'a [Vec<u8>], attacks: &'a [Vec<u8>]) -> &'a Vec<u8> {
    let from = if attacks.is_empty() || random.below(8) > 0 { good } else { attacks };
    let (one, two) = (&from[random.below(from.len())], &from[random.below(from.len())]);
    if one.len() <= two.len() { one } else { two }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The attack files of a target, in the order of their names.
fn attacks(target: &str) -> Vec<Vec<u8>> {
    files(&golden("attacks").join(target), "")
}

pub fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

/// The content of a folder's files with an ending; none where there is no folder.
pub fn files(folder: &Path, ending: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let wanted = paths.iter().filter(|path| path.to_string_lossy().ends_with(ending));
    wanted.map(|path| std::fs::read(path).unwrap()).collect()
}
