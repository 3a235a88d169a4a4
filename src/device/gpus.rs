//! Which NVIDIA GPUs there are, asked of the driver without creating a context on them.

#![allow(unsafe_code)]

/// Compute capabilities ("9.0") on which a GPU has confirmed the kernels: every test of `tests/kernels` and
/// `ddu compare` passed there. `--device auto` takes no other GPU.
pub const CONFIRMED: &[&str] = &[];

/// A GPU as the driver describes it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Gpu {
    /// N of `cuda:N`.
    pub ordinal: usize,
    pub name: String,
    pub compute_capability: String,
    /// Of the compute capability.
    #[serde(skip)]
    pub major: i32,
    pub memory_total_bytes: u64,
    /// "00000000:17:00.0", as nvidia-smi names it.
    pub pci_bus_id: String,
}

impl Gpu {
    /// Whether a GPU of this compute capability has confirmed the kernels.
    pub fn confirmed(&self) -> bool {
        CONFIRMED.contains(&self.compute_capability.as_str())
    }
}

/// What the driver was found to list.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Gpus {
    /// The newest CUDA version that the driver supports ("13.0"); None without a driver.
    pub driver_cuda_version: Option<String>,
    /// The same version as the driver encodes it: 13000.
    #[serde(skip)]
    pub driver: i32,
    pub gpus: Vec<Gpu>,
    /// Why there are none, in a sentence.
    pub problem: Option<String>,
}

#[cfg(not(feature = "cuda"))]
pub fn find() -> Gpus {
    let problem = "this build has no CUDA support (feature `cuda` is off)".to_owned();
    Gpus { problem: Some(problem), ..Gpus::default() }
}

/// Looks for the driver's library and asks it; never fails and never panics.
#[cfg(feature = "cuda")]
pub fn find() -> Gpus {
    use cudarc::driver::sys::CUresult;
    let mut found = Gpus::default();
    if !driver_present() {
        found.problem = Some("no NVIDIA driver (libcuda) on this machine".into());
        return found;
    }
    let none = CUresult::CUDA_ERROR_NO_DEVICE;
    match ask(&mut found) {
        Err(error) if error.0 != none => {
            found.problem = Some(format!("the NVIDIA driver answers {}", words(error)));
        }
        _ if found.gpus.is_empty() => {
            found.problem = Some("the NVIDIA driver lists no GPU".into());
        }
        _ => {}
    }
    found
}

/// Whether the driver's library can be loaded; without it every other call of cudarc panics.
#[cfg(feature = "cuda")]
pub fn driver_present() -> bool {
    // SAFETY: loading a library runs its initialisers; libcuda's are made to be loaded anywhere.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
#[cfg(feature = "cuda")]
pub(super) fn words(error: cudarc::driver::DriverError) -> String {
    type Text<'a> = Result<&'a std::ffi::CStr, cudarc::driver::DriverError>;
    let text = |text: Text| text.map(|t| t.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Ok(name), Ok(said)) => format!("{name} ({said})"),
        _ => format!("{:?}", error.0),
    }
}

#[cfg(feature = "cuda")]
fn ask(found: &mut Gpus) -> Result<(), cudarc::driver::DriverError> {
    use cudarc::driver::result::{device, init};
    use cudarc::driver::sys::{self, CUdevice_attribute_enum::*};
    init()?;
    let mut version = 0;
    // SAFETY: the driver is loaded and writes one integer through a pointer that is valid for it.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    found.driver = version;
    found.driver_cuda_version = Some(format!("{}.{}", version / 1000, version % 1000 / 10));
    for ordinal in 0..device::get_count()? {
        let gpu = device::get(ordinal)?;
        // SAFETY: `gpu` comes from `device::get`.
        let memory = unsafe { device::total_mem(gpu) }?;
        // SAFETY: likewise.
        let attribute = |which| unsafe { device::get_attribute(gpu, which) };
        let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let domain = attribute(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = attribute(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let slot = attribute(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        found.gpus.push(Gpu {
            ordinal: ordinal as usize,
            name: device::get_name(gpu)?,
            compute_capability: format!("{major}.{minor}"),
            major,
            memory_total_bytes: memory as u64,
            pci_bus_id: format!("{domain:08X}:{bus:02X}:{slot:02X}.0"),
        });
    }
    Ok(())
}
