//! The CPU and memory of this machine, and the threads that a process starts on it.

use std::path::Path;

use crate::error::{Error, Result};

/// Bytes of memory that this process may use.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub total: u64,
    /// Without swapping, and within the limits of the control groups (a container's) and of `ulimit`.
    pub available: u64,
}

/// None where the system does not say (it does on Linux).
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let mut memory =
        Memory { total: kib(&text, "MemTotal")?, available: kib(&text, "MemAvailable")? };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    memory.within_groups(&groups, Path::new("/sys/fs/cgroup"));
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    memory.within_limits(&limits, &status);
    Some(memory)
}

/// Of a line `KEY: 12 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

impl Memory {
    /// Within the control groups of /proc/self/cgroup, version 1 or 2, and the groups above them.
    fn within_groups(&mut self, groups: &str, mount: &Path) {
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let (mount, limit, usage) = match controllers {
                "" => (mount.to_owned(), "memory.max", "memory.current"),
                _ if controllers.split(',').any(|c| c == "memory") => {
                    (mount.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
                }
                _ => continue,
            };
            // Inside a container the group may be mounted as the root; every group above limits too.
            for group in Path::new(path.trim_start_matches('/')).ancestors() {
                let folder = mount.join(group);
                let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
                let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
                if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                    // Cached files count as usage and are dropped on demand.
                    let cached = read("memory.stat").and_then(|stat| {
                        stat.lines().find_map(|l| l.strip_prefix("inactive_file ")?.parse().ok())
                    });
                    let used = usage.saturating_sub(cached.unwrap_or(0));
                    self.total = self.total.min(limit);
                    self.available = self.available.min(limit.saturating_sub(used));
                }
            }
        }
    }

    /// Within `ulimit -v` (RLIMIT_AS) and `ulimit -d` (RLIMIT_DATA): /proc/self/limits, and what is
    /// taken of them from /proc/self/status.
    fn within_limits(&mut self, limits: &str, status: &str) {
        for (name, usage) in [("Max address space", "VmSize"), ("Max data size", "VmData")] {
            let soft = limits.lines().find_map(|line| line.strip_prefix(name));
            // "unlimited" is not a number.
            let soft = soft.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            if let Some(soft) = soft {
                let used = kib(status, usage).unwrap_or(0);
                self.total = self.total.min(soft);
                self.available = self.available.min(soft.saturating_sub(used));
            }
        }
    }
}

/// Starts the threads of the CPU path, once for the process: as many as RAYON_NUM_THREADS says, else
/// one per core.
///
/// # Errors
/// RAYON_NUM_THREADS that is no number of threads; threads that the system refuses.
pub fn start_threads() -> Result<()> {
    let threads = match std::env::var_os("RAYON_NUM_THREADS") {
        None => 0,
        Some(text) => thread_count(&text.to_string_lossy())?,
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|e| {
        let expected = match threads {
            0 => "one for each core".to_owned(),
            n => format!("{n}, as RAYON_NUM_THREADS says"),
        };
        too_few_threads(&expected, e)
    })
}

/// Runs `f` on one of the pool's threads. What is parallel in it then starts there, and what is small ends there; from
/// outside each parallel call would wake a thread and wait for it.
pub fn in_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

/// Threads that the system refuses.
pub fn too_few_threads(expected: &str, error: impl std::fmt::Display) -> Error {
    Error::invalid("threads", expected, format!("fewer: {error}"))
        .fix("set RAYON_NUM_THREADS to fewer, or raise `ulimit -u` and `ulimit -v`")
}

/// 0: one for each core.
fn thread_count(text: &str) -> Result<usize> {
    const MAX: usize = 4096;
    text.trim().parse().ok().filter(|n| *n <= MAX).ok_or_else(|| {
        let expected = format!("a number of threads, 1 to {MAX} (0: one for each core)");
        Error::Usage(format!("RAYON_NUM_THREADS: expected {expected}, found {text:?}"))
    })
}

/// As the system names it, else the architecture.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn plenty() -> Memory {
        Memory { total: 64 * GIB, available: 32 * GIB }
    }

    #[test]
    fn every_control_group_above_limits() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, value: u64| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        };
        // Version 2: the limit stands two groups above.
        write("a/memory.max", 8 * GIB);
        write("a/memory.current", 3 * GIB);
        std::fs::write(folder.path().join("a/memory.stat"), format!("inactive_file {GIB}\n"))
            .unwrap();
        std::fs::create_dir_all(folder.path().join("a/b/c")).unwrap();
        std::fs::write(folder.path().join("a/b/memory.max"), "max\n").unwrap();
        let mut memory = plenty();
        memory.within_groups("0::/a/b/c\n", folder.path());
        assert_eq!((memory.total, memory.available), (8 * GIB, 6 * GIB));
        // Version 1.
        write("memory/d/memory.limit_in_bytes", 4 * GIB);
        write("memory/d/memory.usage_in_bytes", 5 * GIB);
        let mut memory = plenty();
        memory.within_groups("3:cpu:/x\n7:memory,hugetlb:/d\n", folder.path());
        assert_eq!((memory.total, memory.available), (4 * GIB, 0));
    }

    #[test]
    fn ulimits_count_less_what_is_taken() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         4294967296           unlimited            bytes     \n";
        let mut memory = plenty();
        memory.within_limits(limits, "Name:\tddu\nVmSize:\t 1048576 kB\nVmData:\t 99 kB\n");
        assert_eq!((memory.total, memory.available), (4 * GIB, 3 * GIB));
        let mut memory = plenty();
        memory.within_limits("", "");
        assert_eq!(memory.available, plenty().available);
    }

    #[test]
    fn nonsense_is_no_number_of_threads() {
        for (text, count) in [("1", 1), (" 8 ", 8), ("0", 0), ("4096", 4096)] {
            assert_eq!(thread_count(text).unwrap(), count);
        }
        for text in ["", "two", "-1", "1.5", "4097", "99999999999999999999"] {
            let error = thread_count(text).unwrap_err().to_string();
            assert!(error.contains("RAYON_NUM_THREADS") && error.contains("4096"), "{error}");
        }
    }
}
