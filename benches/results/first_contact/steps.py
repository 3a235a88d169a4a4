"""The steps of each call, in order: what is simplest first, what may hang the GPU last.

Each list is a generator: later steps are made when earlier ones have run (the tests are those that the test program
lists). Expected seconds are guesses for an H100 that no GPU has confirmed.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

CUDA = "cuda:0"


class Step(NamedTuple):
    name: str
    command: list
    expected: int
    limit: int
    environment: dict = {}
    # A program that must be found.
    needs: str = ""
    # Run a failure again under memcheck and with blocking launches.
    retry: bool = False
    # The file of the results that gets what it prints.
    save: str = ""
    # Others need what it makes: `--from` does not leave it out.
    always: bool = False


# Modules of the test program, simplest kernels first; others come after these.
MODULES = ["ops::gather", "ops::clip", "ops::dropout", "ops::preprocess", "ops::grid", "ops::pool", "ops::resize", "ops::head",
           "ops::mixture", "ops::depthwise", "ops::stem", "ops::conv2d", "ops::moments", "ops::density", "ownership", "network"]
# What runs on no GPU: the stand-in for the driver, the PTX interpreter, sums played on simt, the CPU path.
ELSEWHERE = ("standin_cases::", "ptx_cases::", "mutants::", "truncation::", "ops::pool::on_the_cpu::",
             "ops::resize::on_the_cpu::", "ops::dropout::on_the_cpu::")

# Small tests that together launch every kernel, for the sanitizers (tests/kernels/ptx_cases.rs holds them to it).
SMALL = ["ops::gather::rows_are_copied_in_the_order_of_the_list", "ops::clip::features_are_cut_at_their_channels_limit",
         "ops::dropout::masks_are_those_of_the_cpu", "ops::mixture::logits_that_are_not_finite_are_nan_and_class_0",
         "ops::preprocess::normalised_and_padded_against_f64", "ops::grid::labels_meet_the_grid_as_the_rules_say",
         "ops::grid::maps_are_upsampled_as_on_the_cpu_and_infinities_survive",
         "ops::grid::the_predicted_class_is_the_first_arg_max", "ops::pool::max_pool_is_exact",
         "ops::pool::global_average_against_f64", "ops::resize::both_rules_against_f64",
         "ops::head::label_and_entropy_against_f64", "ops::depthwise::strides_dilations_and_slices_against_f64",
         "ops::stem::odd_sizes_and_channel_tails_against_f64", "ops::conv2d::every_tile_on_every_device_against_f64",
         "ops::conv2d_hopper::every_hopper_tile_on_every_device_against_f64",
         "ops::conv2d_hopper::splits_joined_in_a_cluster",
         "ops::moments::a_handful_a_crowd_and_nobody", "ops::moments::against_two_plain_passes_with_weights",
         "ops::density::without_predicted_classes",
         "ops::density::early_exit_changes_nothing_that_matters"]

# Four kernels for ncu: where the time of a network, its density and its fit goes.
PROFILED = ["conv2d_128x128", "conv2d_64x64", "density_(hopper|256)", "moments_syrk"]


def sanitizer(tool, command):
    return ["compute-sanitizer", "--tool", tool, "--error-exitcode", "99", "--print-limit", "20", *command]


def said(command):
    """What a program prints, empty where it cannot say."""
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout if run.returncode == 0 else ""


def capability():
    """"90" of the first GPU; empty where nvidia-smi cannot say."""
    answer = said(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "-i", "0"])
    return answer.strip().replace(".", "")


def tests(kernels):
    """Names of the tests that run on a GPU, in order."""
    listed = said([kernels, "--list", "--format", "terse"]).splitlines()
    names = [line.removesuffix(": test") for line in listed if line.endswith(": test")]
    names = [name for name in names if not name.startswith(ELSEWHERE)]
    rank = {module: i for i, module in enumerate(MODULES)}

    def place(name):
        return next((rank[module] for module in MODULES if name.startswith(module)), len(MODULES))

    return sorted(names, key=place)


class Package:
    """The folder that pack.py made, and where steps work."""

    def __init__(self, here, work, args):
        self.here, self.work, self.args = here, work, args
        self.results = work / "results"
        self.ddu, self.kernels = work / "ddu", work / "kernels"
        self.peers = ["python3", here / "peers.py"]
        self.models = sorted((here / "models").glob("*.safetensors"))
        self.r101 = work / "r101.safetensors"
        self.pictures, self.picture = work / "pictures", work / "pictures" / "00.png"
        self.density = work / "r101.density.safetensors"

    def named(self):
        return [*((path.stem, path) for path in self.models), ("r101", self.r101)]

    def prepare(self):
        """Pictures, and DeepLab-v3+ with ResNet-101 of random weights: PyTorch's and ddu's file of the same network."""
        yield Step("pictures", ["python3", self.here / "pictures.py", self.work, self.args.size], 5, 60, always=True)
        yield Step("make-r101", [*self.peers, "make", self.work / "r101.pth"], 20, 90, always=True)
        yield Step("convert-r101", [self.ddu, "convert", self.work / "r101.pth", "--family", "smp", "--atrous-rates", "6,12,18",
                                    "--output-stride", "16", "-o", self.r101], 10, 60, always=True)

    def fit(self):
        """A density of that network."""
        return Step("fit-r101", [self.ddu, "fit", "-m", self.r101, "--images", self.pictures, "--masks", self.work / "masks",
                                 "--device", CUDA, "-o", self.density], 15, 60, always=True)

    def profile(self, name, model, batch, *more):
        base = self.results / f"profile-{name}-{batch}"
        return [self.ddu, "profile", "-m", model, "--input", self.picture, "--batch", batch, "--device", CUDA, "--repeats",
                self.args.repeats, "--csv", f"{base}.csv", "--json", f"{base}.json", *more]


def texts(command):
    return [str(word) for word in command]


def correctness(here, work, args):
    p = Package(here, work, args)
    yield Step("nvidia-smi", ["nvidia-smi", "-q"], 2, 30)
    yield Step("nvcc", ["nvcc", "--version"], 1, 30)
    yield Step("python", ["python3", "-c", "import torch; print(torch.__version__, torch.version.cuda)"], 10, 60)
    yield Step("doctor", [p.ddu, "doctor"], 2, 30)
    yield Step("devices", [p.ddu, "devices", "--json"], 2, 30)
    cc = capability()
    # Fragments lane by lane, in the form that tests/golden/ptx takes.
    yield Step("dump-build", ["nvcc", "-std=c++17", f"-arch=sm_{cc}", "-o", work / "dump", here / "tests/simt/dump.cu"], 15, 90)
    yield Step("dump", [work / "dump"], 2, 20, save=f"ptx/sm_{cc}.txt")
    if cc == "90":
        source = here / "tests/simt/dump_wgmma.cu"
        yield Step("dump-wgmma-build", ["nvcc", "-std=c++17", "-arch=sm_90a", "-o", work / "dump_wgmma", source], 15, 90)
        yield Step("dump-wgmma", [work / "dump_wgmma"], 2, 20, save="ptx/wgmma_sm_90.txt")
    on_gpu = {"DDU_TEST_DEVICE": "cuda"}
    names = tests(p.kernels)
    for name in names:
        # Without warpgroup products: density_hopper comes last.
        environment = {**on_gpu, "DDU_TEST_NO_WGMMA": "1"}
        yield Step(name, [p.kernels, "--exact", name, "--nocapture", "--test-threads", "1"], 3, 40, environment, retry=True)
    yield from p.prepare()
    for name, model in p.named():
        command = [p.ddu, "compare", "-m", model, p.picture, "--device", CUDA]
        yield Step(f"compare-{name}", command, 20, 120, retry=True)
    if cc == "90":
        for name in names:
            if "density::" in name or "score::" in name:
                command = [p.kernels, "--exact", name, "--nocapture", "--test-threads", "1"]
                yield Step(f"{name} [wgmma]", command, 3, 40, on_gpu, retry=True)


def speed(here, work, args):
    p = Package(here, work, args)
    batches = [str(batch) for batch in args.batches]
    yield from p.prepare()
    # The clocks are warm from here on.
    yield Step("ceilings", [*p.peers, "ceilings"], 15, 60, save="ceilings.txt")
    for batch in batches:
        yield Step(f"profile-r101-{batch}", p.profile("r101", p.r101, batch), 8, 60)
        yield Step(f"torch-r101-{batch}", [*p.peers, "network", "--ddu", p.ddu, "--model", p.r101, "--checkpoint", work / "r101.pth",
                                           "--picture", p.picture, "--batch", batch, "--repeats", args.repeats, "--device", CUDA],
                   80, 200, save=f"torch-r101-{batch}.txt")
    yield p.fit()
    for batch in batches:
        scored = p.profile("r101-density", p.r101, batch, "--density", p.density, "--moments")
        yield Step(f"profile-density-{batch}", scored, 8, 60)
        yield Step(f"torch-density-{batch}", [*p.peers, "density", "--batch", batch, "--repeats", args.repeats, "--size", args.size],
                   25, 90, save=f"torch-density-{batch}.txt")
    for name, model in p.named()[:-1]:
        yield Step(f"profile-{name}-1", p.profile(name, model, "1"), 5, 60)
    # The table that the launch rule of the convolutions can be made of.
    for batch in batches:
        table = p.results / f"tilings-r101-{batch}.csv"
        yield Step(f"tilings-r101-{batch}", [p.ddu, "profile", "-m", p.r101, "--input", p.picture, "--batch", batch, "--device", CUDA,
                                             "--repeats", max(args.repeats // 4, 1), "--tilings", table], 30, 120)


def tools(here, work, args):
    p = Package(here, work, args)
    yield from p.prepare()
    yield p.fit()
    for kernel in PROFILED:
        # profile launches every kernel by itself as well, and folds the moments.
        once = [p.ddu, "profile", "-m", p.r101, "--input", p.picture, "--device", CUDA, "--density", p.density, "--moments",
                "--repeats", "1"]
        name = kernel.translate(str.maketrans("(|)", "   ")).split()[0].rstrip("_")
        yield Step(f"ncu-{name}", ["ncu", "--set", "full", "--page", "details", "-k", f"regex:^{kernel}$", "-c", "2", *once],
                   30, 90, save=f"ncu-{name}.txt")
    for tool, limit in [("memcheck", 40), ("racecheck", 60)]:
        for name in SMALL:
            command = [p.kernels, "--exact", name, "--nocapture", "--test-threads", "1"]
            yield Step(f"{tool} {name}", sanitizer(tool, command), 8, limit, {"DDU_TEST_DEVICE": "cuda"})
    # The tests fill their memory; a run does not.
    infer = [p.ddu, "infer", "-m", p.r101, p.picture, "-o", work / "initcheck", "--density", p.density, "--device", CUDA]
    yield Step("initcheck-infer", sanitizer("initcheck", infer), 60, 150)


def call(make):
    """The steps of a call, every word of their commands a text."""
    def made(here, work, args):
        for step in make(here, work, args):
            yield step._replace(command=texts(step.command))
    return made


CALLS = {1: call(correctness), 2: call(speed), 3: call(tools)}
