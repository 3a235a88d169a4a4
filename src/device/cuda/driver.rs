//! The handles of the CUDA driver that `cuda.rs` holds, each destroyed when dropped, and the calls it
//! makes with them.
//!
//! Every call needs the context of the handle current on the calling thread ([`Context::make_current`]),
//! drops included; without it the driver answers with an error, and a handle is leaked.

mod context;

use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;

use cudarc::driver::DriverError;
use cudarc::driver::sys::{self, CUresult};

use crate::device::launch::tensor_map::{self, TensorMap};

pub use context::{Context, Current};

pub type Result<T> = std::result::Result<T, DriverError>;

/// A handle that `$destroy` takes once.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $destroy:ident) => {
        $(#[$doc])*
        pub struct $name($raw);

        // SAFETY: as for `Context`.
        unsafe impl Send for $name {}
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle was made by the driver, is owned by `self` and used no more. An error
                // means that the context is lost, and the handle with it.
                let _ = unsafe { sys::$destroy(self.0) };
            }
        }
    };
}

handle!(
    /// A queue of work.
    Stream, sys::CUstream, cuStreamDestroy_v2
);
handle!(
    /// A point in a stream.
    Event, sys::CUevent, cuEventDestroy_v2
);
handle!(
    /// The kernels of one file.
    Module, sys::CUmodule, cuModuleUnload
);
handle!(
    /// A graph under construction.
    Template, sys::CUgraph, cuGraphDestroy
);
handle!(
    /// Kernels to be launched together.
    Graph, sys::CUgraphExec, cuGraphExecDestroy
);
handle!(
    /// Device memory. What uses it must have ended before it is dropped.
    DeviceMemory, sys::CUdeviceptr, cuMemFree_v2
);

/// A function of a [`Module`], and the bytes of dynamic shared memory that it may be launched with.
#[derive(Clone, Copy)]
pub struct Function {
    raw: sys::CUfunction,
    pub shared_bytes: usize,
}

// SAFETY: as for `Context`.
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

/// Blocks of `threads` threads with `shared` bytes of dynamic shared memory each, `cluster` of x together.
#[derive(Clone, Copy)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub cluster: u32,
    pub threads: u32,
    pub shared: u32,
}

impl Grid {
    fn clusters(&self) -> sys::CUlaunchAttributeValue {
        let x = self.cluster;
        let dimensions = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y: 1, z: 1 };
        sys::CUlaunchAttributeValue { clusterDim: dimensions }
    }
}

/// A kernel of a [`Template`], alive as long as that.
#[derive(Clone, Copy)]
pub struct Node(sys::CUgraphNode);

impl Template {
    pub fn new() -> Result<Self> {
        let mut graph = null_mut();
        // SAFETY: one handle is written through a pointer that is valid for it.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result()?;
        Ok(Template(graph))
    }

    /// A kernel that runs after those of `after`, nodes of this graph.
    ///
    /// # Safety
    /// The function takes one parameter, which `params` holds.
    pub unsafe fn add(
        &self,
        function: Function,
        grid: Grid,
        params: &[u64],
        after: &[Node],
    ) -> Result<Node> {
        let mut pointers = [params.as_ptr().cast_mut().cast::<c_void>()];
        let Grid { blocks: [x, y, z], cluster, threads, shared } = grid;
        let kernel = sys::CUDA_KERNEL_NODE_PARAMS {
            func: function.raw,
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            kernelParams: pointers.as_mut_ptr(),
            extra: null_mut(),
            kern: null_mut(),
            ctx: null_mut(),
        };
        let after: Vec<sys::CUgraphNode> = after.iter().map(|node| node.0).collect();
        let mut node = null_mut();
        // SAFETY: the graph and its nodes are alive, the function too; the driver copies the arrays and the parameter before it
        // returns.
        unsafe {
            let (from, count) = (after.as_ptr(), after.len());
            sys::cuGraphAddKernelNode_v2(&mut node, self.0, from, count, &kernel).result()?;
            // No GPU before 9.0 knows it.
            if cluster > 1 {
                let attribute = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
                let clusters = grid.clusters();
                sys::cuGraphKernelNodeSetAttribute(node, attribute, &clusters).result()?;
            }
        }
        Ok(Node(node))
    }

    pub fn instantiate(self) -> Result<Graph> {
        let mut exec = null_mut();
        // SAFETY: the graph is alive; one handle is written through a pointer that is valid for it.
        unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, self.0, 0) }.result()?;
        Ok(Graph(exec))
    }
}

impl Module {
    /// # Safety
    /// `image` is a fatbin, cubin or NUL-terminated PTX text.
    pub unsafe fn load(image: &[u8]) -> Result<Self> {
        // Embedded bytes lie anywhere; the driver reads headers of 64-bit words.
        let mut words = vec![0u64; image.len().div_ceil(8) + 1];
        bytemuck::cast_slice_mut(&mut words)[..image.len()].copy_from_slice(image);
        let mut module = null_mut();
        // SAFETY: the image is whole and what the caller promises; the driver copies what it keeps.
        unsafe { sys::cuModuleLoadData(&mut module, words.as_ptr().cast()) }.result()?;
        Ok(Module(module))
    }

    /// The function `name`, loaded now: a lazy load would come with the first launch.
    pub fn function(&self, name: &str) -> Result<Function> {
        let name = CString::new(name).expect("a kernel's name has no NUL");
        let mut raw = null_mut();
        // SAFETY: the module is alive, the name NUL-terminated; `raw` is then a function of the module.
        unsafe {
            sys::cuModuleGetFunction(&mut raw, self.0, name.as_ptr()).result()?;
            sys::cuFuncLoad(raw).result()?;
        }
        Ok(Function { raw, shared_bytes: 0 })
    }
}

impl Function {
    pub fn attribute(&self, attribute: sys::CUfunction_attribute) -> Result<usize> {
        let mut value = 0;
        // SAFETY: one integer is written through a pointer that is valid for it.
        unsafe { sys::cuFuncGetAttribute(&mut value, attribute, self.raw) }.result()?;
        Ok(value.max(0) as usize)
    }

    /// Size of parameter `i`; None where there is none.
    pub fn parameter_bytes(&self, i: usize) -> Result<Option<usize>> {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: two sizes are written through pointers that are valid for them.
        match unsafe { sys::cuFuncGetParamInfo(self.raw, i, &mut offset, &mut bytes) } {
            CUresult::CUDA_ERROR_INVALID_VALUE => Ok(None),
            answer => answer.result().map(|()| Some(bytes)),
        }
    }

    /// Opts in to `bytes` of dynamic shared memory.
    pub fn allow_shared(&mut self, bytes: usize) -> Result<()> {
        let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is alive; a size that the device does not have is refused.
        unsafe { sys::cuFuncSetAttribute(self.raw, limit, bytes as c_int) }.result()?;
        self.shared_bytes = bytes;
        Ok(())
    }
}

impl DeviceMemory {
    pub fn new(bytes: usize) -> Result<Self> {
        let mut address = 0;
        // SAFETY: one address is written through a pointer that is valid for it.
        unsafe { sys::cuMemAlloc_v2(&mut address, bytes) }.result()?;
        Ok(DeviceMemory(address))
    }

    pub fn address(&self) -> u64 {
        self.0
    }
}

/// What the driver makes of a tensor map: the words that a kernel's parameter holds.
pub fn encode(map: &TensorMap) -> Result<[u64; 16]> {
    use sys::{
        CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Fill,
        CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion,
        CUtensorMapSwizzle as Swizzle,
    };
    let mut made = sys::CUtensorMap { opaque: [0; 16] };
    let (kind, none) =
        (Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16, Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE);
    let (swizzle, fill) =
        (Swizzle::CU_TENSOR_MAP_SWIZZLE_128B, Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    let promotion = Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    let sizes = map.sizes.map(u64::from);
    let address = map.address() as *mut c_void;
    // SAFETY: the arrays have an element a dimension and corner, of which there are at most four and two; the map is written through a
    // pointer that is valid for it. The tensor itself is not touched.
    unsafe {
        if map.mode == tensor_map::IM2COL {
            sys::cuTensorMapEncodeIm2col(
                &mut made,
                kind,
                map.rank,
                address,
                sizes.as_ptr(),
                map.strides.as_ptr(),
                map.lower.as_ptr(),
                map.upper.as_ptr(),
                map.taken[0],
                map.taken[1],
                map.steps.as_ptr(),
                none,
                swizzle,
                promotion,
                fill,
            )
        } else {
            sys::cuTensorMapEncodeTiled(
                &mut made,
                kind,
                map.rank,
                address,
                sizes.as_ptr(),
                map.strides.as_ptr(),
                map.taken.as_ptr(),
                map.steps.as_ptr(),
                none,
                swizzle,
                promotion,
                fill,
            )
        }
    }
    .result()?;
    Ok(made.opaque)
}

/// Free bytes of the current context's device.
pub fn free_memory() -> Result<usize> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: two sizes are written through pointers that are valid for them.
    unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }.result()?;
    Ok(free)
}

/// Host memory that the device reads and writes itself.
pub struct Pinned {
    data: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory, reached through `self` alone.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `write_combined`: faster to write, and far too slow to be read by the host.
    pub fn new(bytes: usize, write_combined: bool) -> Result<Self> {
        let flags = if write_combined { sys::CU_MEMHOSTALLOC_WRITECOMBINED } else { 0 };
        let mut data: *mut c_void = null_mut();
        // SAFETY: one pointer is written through a pointer that is valid for it; the memory behind it is then
        // ours, and initialised below.
        unsafe {
            sys::cuMemHostAlloc(&mut data, bytes, flags).result()?;
            std::ptr::write_bytes(data.cast::<u8>(), 0, bytes);
        }
        Ok(Pinned { data: data.cast(), bytes })
    }

    /// # Safety
    /// No copy from or to it is under way.
    pub unsafe fn host(&mut self) -> &mut [u8] {
        // SAFETY: `bytes` initialised bytes, borrowed as `self` is; the device leaves them alone.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once; the stream has ended (see `Cuda`'s drop).
        let _ = unsafe { sys::cuMemFreeHost(self.data.cast()) };
    }
}

impl Event {
    pub fn new(timed: bool) -> Result<Self> {
        use sys::CUevent_flags::{CU_EVENT_DEFAULT, CU_EVENT_DISABLE_TIMING};
        let flags = if timed { CU_EVENT_DEFAULT } else { CU_EVENT_DISABLE_TIMING };
        let mut event = null_mut();
        // SAFETY: one handle is written through a pointer that is valid for it.
        unsafe { sys::cuEventCreate(&mut event, flags as u32) }.result()?;
        Ok(Event(event))
    }

    /// Waits for the last record; not at all where there is none.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        unsafe { sys::cuEventSynchronize(self.0) }.result()
    }

    /// Milliseconds from `start` to `self`, both timed and past.
    pub fn since(&self, start: &Event) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive; one number is written through a pointer that is valid for it.
        unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, start.0, self.0) }.result()?;
        Ok(milliseconds)
    }
}

impl Stream {
    pub fn new() -> Result<Self> {
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let mut stream = null_mut();
        // SAFETY: one handle is written through a pointer that is valid for it.
        unsafe { sys::cuStreamCreate(&mut stream, flags) }.result()?;
        Ok(Stream(stream))
    }

    pub fn wait(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { sys::cuStreamSynchronize(self.0) }.result()
    }

    pub fn record(&self, event: &Event) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { sys::cuEventRecord(event.0, self.0) }.result()
    }

    /// Copies the first `bytes` of `from` to the device.
    ///
    /// # Safety
    /// `to` has as many bytes, and `from` is neither written nor freed before the copy has ended.
    pub unsafe fn upload(&self, to: u64, from: &Pinned, bytes: usize) -> Result<()> {
        assert!(bytes <= from.bytes);
        // SAFETY: both sides have `bytes` bytes for as long as the copy takes.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.data.cast(), bytes, self.0) }.result()
    }

    /// Copies from the device to the first `bytes` of `to`.
    ///
    /// # Safety
    /// `from` has as many bytes, and `to` is neither used nor freed before the copy has ended.
    pub unsafe fn download(&self, to: &mut Pinned, from: u64, bytes: usize) -> Result<()> {
        assert!(bytes <= to.bytes);
        // SAFETY: both sides have `bytes` bytes for as long as the copy takes.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.data.cast(), from, bytes, self.0) }.result()
    }

    /// Copies `bytes` bytes on the device.
    ///
    /// # Safety
    /// Both sides have as many until the copy has ended.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's obligation.
        unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.0) }.result()
    }

    /// What is given to this stream from now on runs after the last record of `event`.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { sys::cuStreamWaitEvent(self.0, event.0, 0) }.result()
    }

    /// The driver's handle.
    pub fn handle(&self) -> u64 {
        self.0 as u64
    }

    /// # Safety
    /// The function takes one parameter, which `params` holds, and stays inside live memory.
    pub unsafe fn launch(&self, function: Function, grid: Grid, params: &[u64]) -> Result<()> {
        let mut pointers = [params.as_ptr().cast_mut().cast::<c_void>()];
        let mut attributes = [sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: grid.clusters(),
        }];
        let Grid { blocks: [x, y, z], cluster, threads, shared } = grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: self.0,
            attrs: attributes.as_mut_ptr(),
            // No GPU before 9.0 knows it.
            numAttrs: u32::from(cluster > 1),
        };
        // SAFETY: the driver copies the configuration and the parameter, neither of which it changes, before it returns.
        unsafe { sys::cuLaunchKernelEx(&config, function.raw, pointers.as_mut_ptr(), null_mut()) }
            .result()
    }

    /// # Safety
    /// The kernels of the graph stay inside live memory.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: both are alive; a graph in flight may be destroyed.
        unsafe { sys::cuGraphLaunch(graph.0, self.0) }.result()
    }
}
