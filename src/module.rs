//! The kernels, loaded into a context and ready to launch.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, result};
use cudarc::nvrtc::Ptx;

use crate::dtype::Dtype;
use crate::embedded;
use crate::error::{During, Error, Result};
use crate::gpu::Gpu;
use crate::plan::{Kernel, Plan};

/// Oldest compute capability the kernels are built for.
const OLDEST: (i32, i32) = (8, 0);

/// The kernels of this crate, loaded into one CUDA context. Cheap to clone.
///
/// Operations are methods: each takes what it works on, may be given options, and is launched on a stream:
///
/// ```no_run
/// # use kv_kernels::{Kernels, KvCache, CacheShape, Lengths, NewTokens};
/// # use half::f16;
/// # fn main() -> kv_kernels::Result<()> {
/// let ctx = kv_kernels::open(0)?;
/// let stream = ctx.default_stream();
/// let kernels = Kernels::new(&ctx)?;
/// # let shape = CacheShape { batch: 1, num_kv_heads: 8, max_seq_len: 4096, head_dim: 128 };
/// # let mut cache = KvCache::<f16>::new(&stream, shape)?;
/// # let lengths = Lengths::new(&stream, 1, 4096)?;
/// # let (q, k, v) = (cache.k().clone(), cache.k().clone(), cache.k().clone());
/// # let mut out = cache.k().clone();
/// let step = lengths.step(NewTokens::Each(1))?;
/// kernels.append(&k, &v, &mut cache, step).launch(&stream)?;
/// kernels.decode(&q, 32, &cache, step, &mut out).softmax_scale(0.1).launch(&stream)?;
/// # Ok(())
/// # }
/// ```
///
/// A launch makes all checks first, then one driver call; it allocates nothing, waits for nothing and can be captured
/// in a CUDA graph. As with all of cudarc, capture wants event tracking
/// [disabled](CudaContext::disable_event_tracking) before the slices are allocated: an event recorded outside a
/// capture cannot be waited for inside.
#[derive(Clone)]
pub struct Kernels {
    loaded: Arc<Loaded>,
}

struct Loaded {
    context: Arc<CudaContext>,
    gpu: Gpu,
    functions: HashMap<Kernel, CudaFunction>,
}

/// What is loaded, a context each, for as long as somebody uses it.
static LOADED: Mutex<Vec<Weak<Loaded>>> = Mutex::new(Vec::new());

impl Kernels {
    /// The kernels in this context: loaded by the first call, shared by later ones.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] below compute capability 8.0, [`Error::NoKernels`] in a build without them,
    /// [`Error::Driver`] where loading fails.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        // Behind a panic in another thread the list is still a list.
        let mut list = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|loaded| loaded.strong_count() > 0);
        let known = list
            .iter()
            .filter_map(Weak::upgrade)
            .find(|loaded| loaded.context == *context);
        let loaded = match known {
            Some(loaded) => loaded,
            None => {
                let loaded = Arc::new(Loaded::new(context)?);
                list.push(Arc::downgrade(&loaded));
                loaded
            }
        };
        Ok(Kernels { loaded })
    }

    /// The context they are loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.loaded.context
    }

    /// The limits of its device, which plans are made from.
    pub fn gpu(&self) -> &Gpu {
        &self.loaded.gpu
    }

    /// Refuses a stream of another context.
    pub(crate) fn check_stream(&self, stream: &CudaStream) -> Result<()> {
        if stream.context() != self.context() {
            return Err(Error::OtherContext { argument: "stream" });
        }
        Ok(())
    }

    /// Launches a plan's kernel.
    ///
    /// # Safety
    /// 1. `params` is the structure that the kernel takes.
    /// 2. Every address in it is one of this context, of as many elements as the structure makes the kernel touch,
    ///    and nobody else writes there, or reads what the kernel writes, before the launch has run. The operations
    ///    see to it by their checks, by borrowing the slices, and by the guards that order streams; what is read on
    ///    the device (lengths) the kernels bound themselves.
    pub(crate) unsafe fn launch<P>(
        &self,
        plan: &Plan,
        params: &P,
        stream: &CudaStream,
    ) -> Result<()> {
        let function = self
            .loaded
            .functions
            .get(&plan.kernel())
            .ok_or(Error::NoKernels)?;
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        self.context()
            .bind_to_thread()
            .during("making the context current")?;
        // SAFETY: the function is of a module that lives as long as `self`; it takes one argument, `params`, which
        // the driver copies during the call; the rest is the caller's promise.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (plan.blocks, 1, 1),
                (plan.threads, 1, 1),
                plan.shared_bytes,
                stream.cu_stream(),
                &mut arguments,
            )
        }
        .during("launching a kernel")
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels")
            .field("context", &self.loaded.context)
            .field("functions", &self.loaded.functions.len())
            .finish()
    }
}

impl Loaded {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let (major, minor) = context
            .compute_capability()
            .during("asking for the compute capability")?;
        if (major, minor) < OLDEST {
            return Err(Error::UnsupportedDevice {
                name: context.name().during("asking for the device's name")?,
                major,
                minor,
            });
        }
        let mut modules = HashMap::new();
        let functions = Kernel::all()
            .map(|kernel| {
                let image = image_of(kernel);
                let module = match modules.entry(image.as_ptr()) {
                    Entry::Occupied(loaded) => loaded.into_mut(),
                    Entry::Vacant(vacant) => vacant.insert(load(context, image)?),
                };
                let function = module
                    .load_function(&kernel.to_string())
                    .during("finding a kernel in its module")?;
                let shared_bytes = kernel.dynamic_shared_bytes();
                if shared_bytes > 0 {
                    function
                        .set_attribute(
                            CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                            shared_bytes as i32,
                        )
                        .during("allowing a kernel its shared memory")?;
                }
                Ok((kernel, function))
            })
            .collect::<Result<_>>()?;
        Ok(Loaded {
            context: context.clone(),
            gpu: Gpu::of(context)?,
            functions,
        })
    }
}

/// The image that holds a kernel.
fn image_of(kernel: Kernel) -> &'static [u8] {
    match kernel {
        Kernel::Append { .. } | Kernel::AppendRope { .. } => embedded::APPEND,
        Kernel::AppendQuantized { .. } => embedded::APPEND_QUANTIZED,
        Kernel::Advance => embedded::ADVANCE,
        Kernel::Merge { .. } => embedded::MERGE,
        Kernel::Rope { .. } => embedded::ROPE,
        Kernel::Quantize { .. } | Kernel::Dequantize { .. } => embedded::QUANTIZE,
        Kernel::Calibrate { .. } | Kernel::Statistics { .. } => embedded::STATISTICS,
        Kernel::Decode { k, v, .. } => match (k, v) {
            (Dtype::F16, Dtype::F16) => embedded::DECODE_F16,
            (Dtype::Bf16, Dtype::Bf16) => embedded::DECODE_BF16,
            (Dtype::I8, Dtype::I8) => embedded::DECODE_INT8,
            (Dtype::F8E4M3, Dtype::F8E4M3) => embedded::DECODE_FP8,
            (Dtype::F16, _) | (_, Dtype::F16) => embedded::DECODE_F16_INT8,
            (Dtype::Bf16, _) | (_, Dtype::Bf16) => embedded::DECODE_BF16_INT8,
            // No kernel is of these: CacheTypes.
            (Dtype::I8, Dtype::F8E4M3) | (Dtype::F8E4M3, Dtype::I8) => &[],
        },
        Kernel::Prefill { dtype, .. } => match dtype {
            Dtype::F16 => embedded::PREFILL_F16,
            Dtype::Bf16 => embedded::PREFILL_BF16,
            // No kernel is of these: Kernel::all.
            Dtype::I8 | Dtype::F8E4M3 => &[],
        },
    }
}

fn load(context: &Arc<CudaContext>, image: &[u8]) -> Result<Arc<CudaModule>> {
    if image.is_empty() {
        return Err(Error::NoKernels);
    }
    context
        .load_module(Ptx::from_binary(image.to_vec()))
        .during("loading the kernels")
}
