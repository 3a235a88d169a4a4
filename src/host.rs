//! The CPU and memory of this machine.

/// Bytes of memory that this process may use.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub total: u64,
    /// Without swapping, and within the limits of the control group (a container's).
    pub available: u64,
}

/// None where the system does not say (it does on Linux).
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let mut memory =
        Memory { total: kib("MemTotal")? << 10, available: kib("MemAvailable")? << 10 };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // Inside a container the group may be mounted as the root.
        for folder in [format!("{mount}{path}"), mount.into()] {
            let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                // Cached files count as usage and are dropped on demand.
                let cached = read("memory.stat").and_then(|stat| {
                    stat.lines().find_map(|l| l.strip_prefix("inactive_file ")?.parse().ok())
                });
                let used = usage.saturating_sub(cached.unwrap_or(0));
                memory.total = memory.total.min(limit);
                memory.available = memory.available.min(limit.saturating_sub(used));
            }
        }
    }
    Some(memory)
}

/// As the system names it, else the architecture.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// The vector instructions that the CPU path uses here.
pub fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return match crate::cpu::simd::arch() {
        pulp::Arch::V4(_) => "AVX-512",
        pulp::Arch::V3(_) => "AVX2 + FMA",
        _ => "none",
    };
    #[cfg(target_arch = "aarch64")]
    return match crate::cpu::simd::arch() {
        pulp::Arch::Neon(_) => "NEON",
        _ => "none",
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    "none"
}
