#!/usr/bin/env bash
# Everything of README.md beside this file that waits for a GPU, in one go, into <date>-<host>/ here.
#
#   benches/results/gpu.sh DDU KERNELS [MODEL...]
#
# DDU is the binary, KERNELS the test program of tests/kernels, both built elsewhere with nvcc found (no Rust is
# needed here):
#
#   cargo build --release --features simt                             # target/release/ddu
#   cargo test --release --features simt --test kernels --no-run      # says where the program is
#
# MODELs are files of `ddu convert`; the demo's is always taken, and where PyTorch and torchvision are found,
# DeepLab-v3 with ResNet-50 and 101 of random weights. compute-sanitizer and nvcc are used where they are found.
# Needs an idle GPU, cuda:0. A step that fails does not end the run; the exit code says that one did.
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2; }
ddu=$(realpath "$1") kernels=$(realpath "$2")
shift 2
models=()
for model in "$@"; do models+=("$(realpath "$model")"); done
cd "$(dirname "$0")/../.." || exit 1
out=benches/results/$(date +%Y-%m-%d)-$(hostname -s)
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
# Sanitizers take hours where they find much to say.
limit=${DDU_STEP_SECONDS:-3600}

# step NAME COMMAND...: what it says goes to NAME.txt, how it ended to summary.txt.
step() {
    local name=$1 start=$SECONDS code=0
    shift
    { printf '$ %s\n' "$*"; timeout "$limit" "$@"; } >"$out/$name.txt" 2>&1 || code=$?
    [ "$code" = 0 ] || failed=1
    printf '%-32s exit %3d  %5d s\n' "$name" "$code" $((SECONDS - start)) | tee -a "$out/summary.txt"
}
absent() { printf '%-32s not found\n' "$1" | tee -a "$out/summary.txt"; }
: >"$out/summary.txt"

step nvidia-smi nvidia-smi -q
step doctor "$ddu" doctor
git rev-parse HEAD >"$out/commit.txt" 2>/dev/null || true

# The kernels against their f64 references, whole networks against the CPU path.
step kernels env DDU_TEST_DEVICE=cuda "$kernels" --test-threads 1

# Fragments lane by lane; the simt device is compared with them from then on (tests/simt).
if command -v nvcc >/dev/null; then
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d .)
    step dump-build nvcc -std=c++17 "-arch=sm_$arch" -o "$work/dump" tests/simt/dump.cu
    if [ -x "$work/dump" ]; then
        mkdir -p tests/golden/ptx
        step dump "$work/dump"
        grep -v '^\$' "$out/dump.txt" >"tests/golden/ptx/sm_$arch.txt"
    fi
else
    absent nvcc
fi

# Models.
models+=("$PWD/assets/demo.safetensors")
cat >"$work/random.py" <<'PYTHON'
import sys, torch, torchvision
torch.manual_seed(0)
make = getattr(torchvision.models.segmentation, "deeplabv3_" + sys.argv[1])
torch.save(make(weights=None, weights_backbone=None, num_classes=21).state_dict(), sys.argv[2])
PYTHON
if python3 -c 'import torchvision' 2>/dev/null; then
    for backbone in resnet50 resnet101; do
        step "random-$backbone" python3 "$work/random.py" $backbone "$work/$backbone.pth"
        step "convert-$backbone" "$ddu" convert "$work/$backbone.pth" --family torchvision -o "$work/$backbone.safetensors"
        models+=("$work/$backbone.safetensors")
    done
else
    absent torchvision
fi

# Op by op and end to end; then what every kernel costs.
picture=docs/img/demo.png
for model in "${models[@]}"; do
    name=$(basename "$model" .safetensors)
    step "compare-$name" "$ddu" compare -m "$model" $picture --device cuda:0
    for batch in 1 8 16; do
        step "profile-$name-$batch" "$ddu" profile -m "$model" --size 513x513 --batch $batch --device cuda:0 \
            --csv "$out/profile-$name-$batch.csv"
    done
    mkdir -p "$work/pictures"
    for i in 1 2 3 4 5 6 7 8; do cp $picture "$work/pictures/$i.png"; done
    step "infer-$name" "$ddu" infer -m "$model" "$work/pictures" -o "$work/maps-$name" --device cuda:0 --json "$out/infer-$name.json"
done

# initcheck wants memory that nobody has filled; the tests fill theirs.
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        step "sanitizer-$tool" env DDU_TEST_DEVICE=cuda compute-sanitizer --tool $tool --error-exitcode 99 \
            "$kernels" --test-threads 1 --skip network:: --skip camvid
    done
    for tool in memcheck initcheck; do
        step "sanitizer-$tool-infer" compute-sanitizer --tool $tool --error-exitcode 99 \
            "$ddu" infer -m assets/demo.safetensors $picture -o "$work/sanitizer-$tool" --device cuda:0
    done
else
    absent compute-sanitizer
fi

cat "$out/summary.txt"
exit $failed
