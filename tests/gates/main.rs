//! Static gates: what nvcc made of every kernel for every architecture, compared with a committed table of
//! bounds (`tests/golden/gates.csv`). Runs where the build found the nvcc of `.ci/nvcc.txt`, which alone they hold for; elsewhere it says
//! that it was skipped. No GPU is needed.
//!
//! Registers and shared memory decide how many blocks a multiprocessor holds; no kernel may spill or keep
//! an array in local memory; tensor-core kernels must hold HMMA (or HGMMA, on Hopper), and kernels that move activations 128-bit
//! accesses (LDG.E.128, LDGSTS.E.128, STG.E.128). Few divide integers at run time. Main loops, what comes before them, and loads under way at once: `loops`.
//! Registers of warpgroup products in flight are left alone (`flight`), and what else such products need is there
//! (`warpgroup`). `sass` reads the instructions.
//!
//! The table's columns: kernel, architecture; registers, at most; hmma and wide, 1 where there must be tensor-core instructions
//! and 128-bit accesses; per_product and prologue, empty where no loop holds products, else at most so many and `loops::SLACK`;
//! batch, at least; serial, at most.
#![cfg(feature = "cuda")]

mod flight;
mod loops;
mod sass;
mod warpgroup;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ddu::device::kernels;
use ddu::device::{FATBINS, NVCC_RELEASE};

use crate::loops::Loops;
use crate::sass::Code;

/// Those that build.rs compiles for.
const ARCHITECTURES: [&str; 6] = ["100", "120", "80", "86", "89", "90a"];

/// Kernels, by the start of their names, that divide integers at run time.
const DIVIDING: [&str; 1] = ["density_"];

/// One line of the table; `other`, of any architecture, is for kernels that have none of their own.
#[derive(Clone, Debug)]
struct Bound {
    kernel: String,
    architecture: String,
    registers: u32,
    hmma: bool,
    wide: bool,
    loops: Loops,
}

/// Of every kernel for these architectures.
fn bounds(architectures: &[&str]) -> Vec<Bound> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gates.csv");
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let [kernel, architecture, registers, hmma, wide, per_product, prologue, batch, serial] =
            fields[..]
        else {
            panic!("{line}")
        };
        Bound {
            kernel: kernel.into(),
            architecture: architecture.into(),
            registers: registers.parse().unwrap(),
            hmma: hmma == "1",
            wide: wide == "1",
            loops: Loops {
                per_product: (!per_product.is_empty()).then(|| per_product.parse().unwrap()),
                prologue: (!prologue.is_empty()).then(|| prologue.parse().unwrap()),
                batch: batch.parse().unwrap(),
                serial: serial.parse().unwrap(),
            },
        }
    };
    let (other, mut bounds): (Vec<_>, Vec<_>) =
        text.lines().skip(1).map(line).partition(|bound| bound.kernel == "other");
    let [other] = &other[..] else { panic!("one line for other kernels: {other:?}") };
    for bound in &bounds {
        assert!(kernels::all().any(|k| k.name == bound.kernel), "{bound:?}: no such kernel");
        assert!(architectures.contains(&&*bound.architecture), "{bound:?}: no such architecture");
    }
    for kernel in kernels::all() {
        if bounds.iter().any(|bound| bound.kernel == kernel.name) {
            continue;
        }
        let of = |name: &&str| Bound {
            kernel: kernel.name.into(),
            architecture: (*name).into(),
            ..other.clone()
        };
        bounds.extend(architectures.iter().map(of));
    }
    bounds
}

/// What the tool says of one kernel for one architecture.
#[derive(Default)]
struct Found {
    registers: u32,
    stack: u32,
    local: u32,
    hmma: usize,
    /// Of a warpgroup, and those that end a group.
    hgmma: usize,
    groups: usize,
    wide: usize,
    spills: usize,
    sass: String,
    /// Of its shared memory, where warpgroups multiply.
    alignment: Option<u64>,
}

fn number(line: &str, key: &str) -> u32 {
    let rest = line.split(key).nth(1).unwrap_or_else(|| panic!("no {key} in: {line}"));
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// By kernel and architecture.
fn inspect(folder: &Path, fatbin: &Path) -> BTreeMap<(String, String), Found> {
    let tool = |options: &[&str]| {
        let path = std::env::join_paths([folder.to_path_buf(), "/usr/bin".into(), "/bin".into()]);
        let run = Command::new(folder.join("cuobjdump"))
            .env("PATH", path.unwrap())
            .args(options)
            .arg(fatbin)
            .output()
            .unwrap_or_else(|error| panic!("cuobjdump beside nvcc: {error}"));
        assert!(run.status.success(), "cuobjdump: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8_lossy(&run.stdout).into_owned()
    };
    let mut found: BTreeMap<(String, String), Found> = BTreeMap::new();
    let (mut architecture, mut kernel) = (String::new(), String::new());
    for line in tool(&["-res-usage", "-sass"]).lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("arch = sm_") {
            architecture = name.into();
        } else if let Some(name) = line.strip_prefix("Function : ") {
            kernel = name.into();
        } else if let Some(name) = line.strip_prefix("Function ") {
            kernel = name.trim_end_matches(':').into();
        } else if line.starts_with("REG:") {
            let usage = Found {
                registers: number(line, "REG:"),
                stack: number(line, "STACK:"),
                local: number(line, "LOCAL:"),
                ..Found::default()
            };
            found.insert((kernel.clone(), architecture.clone()), usage);
        } else if let Some(found) = found.get_mut(&(kernel.clone(), architecture.clone())) {
            let instruction = |name: &str| line.contains(name);
            found.hmma += usize::from(instruction("HMMA.") || instruction("HGMMA."));
            found.hgmma += usize::from(instruction("HGMMA."));
            found.groups += usize::from(instruction("HGMMA.") && instruction("gsb0"));
            let global = instruction("LDG") || instruction("STG");
            found.wide += usize::from(global && instruction(".128"));
            found.spills += usize::from(instruction(" LDL") || instruction(" STL"));
            found.sass += line;
            found.sass.push('\n');
        }
    }
    if found.values().any(|f| f.hgmma > 0) {
        let mut alignments = warpgroup::alignments(&tool(&["-elf", "-arch", "sm_90a"]));
        for ((kernel, _), f) in
            found.iter_mut().filter(|((_, architecture), _)| architecture == "90a")
        {
            f.alignment = alignments.remove(kernel);
        }
    }
    found
}

/// The nvcc of this build; None, with a line that says so, where there is none, or another than the bounds are for.
fn nvcc() -> Option<&'static str> {
    let pins = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/nvcc.txt");
    let pins = std::fs::read_to_string(pins).unwrap();
    let pin = pins.lines().find_map(|line| line.strip_prefix("nvidia-cuda-nvcc==")).unwrap();
    let nvcc = option_env!("DDU_NVCC").filter(|_| !FATBINS.is_empty());
    let why = match nvcc {
        None => "the build found no nvcc".to_owned(),
        // "13.5" of "13.5.37".
        Some(_) if pin.starts_with(&format!("{NVCC_RELEASE}.")) => return nvcc,
        Some(_) => format!(
            "their bounds are for nvcc {pin} (.ci/nvcc.txt), this build took one of CUDA {NVCC_RELEASE}"
        ),
    };
    // The harness captures what the print macros write.
    let _ = writeln!(std::io::stderr(), "static gates SKIPPED: {why}");
    None
}

#[test]
fn every_kernel_is_inside_its_bounds_on_every_architecture() {
    let Some(nvcc) = nvcc() else { return };
    let folder = Path::new(nvcc).parent().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::new();
    for (name, bytes) in FATBINS {
        let path = temporary.path().join(format!("{name}.fatbin"));
        std::fs::write(&path, bytes).unwrap();
        found.extend(inspect(folder, &path));
    }
    let code: BTreeMap<_, _> = found.iter().map(|(at, f)| (at, Code::parse(&f.sass))).collect();
    let mut table =
        String::from("kernel,architecture,registers,hmma,wide,per_product,prologue,batch,serial\n");
    for (at, f) in &found {
        let (kernel, architecture) = at;
        let (hmma, wide) = (u8::from(f.hmma > 0), u8::from(f.wide > 0));
        let Loops { per_product, prologue, batch, serial } = Loops::of(&code[at]);
        let per_product = per_product.map(|n| n.to_string()).unwrap_or_default();
        let prologue = prologue.map(|n| n.to_string()).unwrap_or_default();
        table += &format!("{kernel},{architecture},{},{hmma},{wide},", f.registers);
        table += &format!("{per_product},{prologue},{batch},{serial}\n");
    }
    // `DDU_PRINT_GATES=1` prints the table as it is, to renew the committed one.
    if std::env::var_os("DDU_PRINT_GATES").is_some() {
        let _ = write!(std::io::stderr(), "{table}");
    }
    let bounds = bounds(&ARCHITECTURES);
    let architectures: std::collections::BTreeSet<&str> =
        found.keys().map(|(_, a)| a.as_str()).collect();
    assert_eq!(architectures, ARCHITECTURES.into());
    assert_eq!(
        found.len(),
        kernels::all().count() * architectures.len(),
        "kernels times architectures"
    );
    assert_eq!(bounds.len(), found.len(), "bounds for each");
    for bound in bounds {
        let what = format!("{} on sm_{}", bound.kernel, bound.architecture);
        let at = (bound.kernel.clone(), bound.architecture.clone());
        let (f, code) = (&found[&at], &code[&at]);
        assert!(
            f.registers <= bound.registers,
            "{what}: {} registers, at most {}",
            f.registers,
            bound.registers
        );
        assert_eq!((f.stack, f.local, f.spills), (0, 0, 0), "{what}: stack, local memory, spills");
        assert!(f.hmma > 0 || !bound.hmma, "{what}: no HMMA");
        // Where ptxas cannot keep warpgroup products in flight it ends their group, and waits, after each of them.
        assert!(f.groups * 4 <= f.hgmma, "{what}: serialised warpgroup products");
        // As tiles and in im2col mode; results by tensor copies.
        for copy in ["UTMALDG.3D", "UTMALDG.4D.IM2COL", "UTMASTG.3D"] {
            let needed = f.hgmma > 0 && bound.kernel.starts_with("conv2d");
            assert!(f.sass.contains(copy) || !needed, "{what}: no {copy}");
        }
        assert!(f.wide > 0 || !bound.wide, "{what}: no 128-bit access");
        let divides = code.divides();
        assert!(
            !divides || DIVIDING.iter().any(|name| bound.kernel.starts_with(name)),
            "{what}: divides by an integer at run time"
        );
        let faults = bound.loops.exceeded(&Loops::of(code));
        assert!(faults.is_empty(), "{what}: {faults:#?}");
        if f.hgmma > 0 {
            let faults = warpgroup::faults(&f.sass, f.alignment);
            assert!(faults.is_empty(), "{what}: {faults:#?}");
            let faults = flight::faults(code);
            assert!(faults.is_empty(), "{what}: {faults:#?}");
        }
    }
}

/// The limits of every GPU of the list: what a block needs must fit.
#[test]
fn registers_and_shared_memory_fit_a_multiprocessor() {
    for bound in bounds(&ARCHITECTURES) {
        let kernel =
            kernels::all().find(|k| k.name == bound.kernel).expect("a kernel of the table");
        // Registers are given to a warp in blocks of 256.
        let warp = (bound.registers as usize * 32).next_multiple_of(256);
        assert!(kernel.threads / 32 * warp <= 65536, "{bound:?}");
        // The least: sm_86, sm_89 and sm_120 give a block 99 KiB, sm_80 163, sm_90 227. The density's largest
        // tile is launched only where `Device::shared_bytes` has room for it, Hopper's on Hopper.
        let least = match kernel.name {
            "density_256" | "density_256_fast" => 163,
            name if name.contains("hopper") => 227,
            _ => 99,
        };
        assert!(kernel.shared_bytes <= least << 10, "{bound:?}");
    }
}

/// A build whose waits give up must be the kernel that is tested: as many registers, no spill, no product waited for one
/// by one. And it must give up.
#[test]
fn a_build_that_gives_up_waiting_is_the_same_kernel() {
    let Some(nvcc) = nvcc() else { return };
    for file in ["density_hopper", "conv2d_hopper"] {
        let folder = tempfile::tempdir().unwrap();
        let fatbin = folder.path().join(format!("{file}.fatbin"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("kernels/{file}.cu"));
        let run = Command::new(nvcc)
            .args(["-fatbin", "-std=c++17", "-O3", "-gencode", "arch=compute_90a,code=sm_90a"])
            .args(["-DDDU_WAIT_TRIES=1000000", "-o"])
            .args([&fatbin, &source])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && said.trim().is_empty(), "{said}");
        for ((kernel, _), f) in inspect(Path::new(nvcc).parent().unwrap(), &fatbin) {
            assert_eq!((f.stack, f.local, f.spills), (0, 0, 0), "{kernel}: stack, local, spills");
            assert!(f.groups * 4 <= f.hgmma, "{kernel}: serialised warpgroup products");
            assert!(f.sass.contains("BPT.TRAP"), "{kernel}: nothing gives up");
            // Before others read the block's sums, and before they are gone.
            let joins = if file == "conv2d_hopper" { 2 } else { 0 };
            for barrier in ["UCGABAR_ARV", "UCGABAR_WAIT"] {
                let found = f.sass.matches(barrier).count();
                assert!(found >= joins, "{kernel}: {found} {barrier}");
            }
        }
    }
}
