//! The PTX interpreter (`interpreter/`) against the PTX ISA: every instruction on edge values (`operations` lane by lane on registers,
//! `accesses`, `edges`), and faults planted in small kernels, each beside its sound twin (`planted`). It needs no nvcc. The project's own kernels run on it in
//! `tests/kernels/ptx_cases.rs`; what it is made of: docs/architecture.md.

mod accesses;
mod edges;
mod operations;
mod planted;
#[path = "../common/ptx.rs"]
mod ptx;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        ptx::interpreter(&ptx::project().join("tests/ptx/program.cpp"), false, "program")
    })
}

/// One block of a kernel, or one cluster of blocks.
struct Block<'a> {
    threads: usize,
    shared: usize,
    /// Words that it writes.
    out: usize,
    input: &'a [u8],
    /// Of a run in random order that looks for races.
    seed: Option<u32>,
}

/// What it wrote; or the error, or notes of what the ISA leaves undefined.
fn run(text: &str, block: &Block) -> Result<Vec<u32>, String> {
    let folder = tempfile::tempdir().unwrap();
    let (file, input) = (folder.path().join("test.ptx"), folder.path().join("in"));
    std::fs::write(&file, text).unwrap();
    std::fs::write(&input, block.input).unwrap();
    let mut command = Command::new(program());
    command.arg("run").arg(file);
    command.args([block.threads, block.shared, block.out].map(|n| n.to_string()));
    command.arg(input).args(block.seed.map(|seed| seed.to_string()));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || said.contains("note ") {
        return Err(said);
    }
    Ok(said.lines().map(|line| u32::from_str_radix(line, 16).unwrap()).collect())
}
