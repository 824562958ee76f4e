"""The commands that `--help` shows, on the papers' own bases. Imports nothing, so that help is quick."""

TRAIN = """Examples:
  unistep train compact-teacher --data photos --out run --set train.steps=1000
  unistep train tsdsr-sd3 --plan
  accelerate launch -m unistep train tsdsr-sd3 --data photos --out run"""
PREPARE = """Examples:
  unistep prepare tsdsr-sd3 --data photos --out crops --crops 4
  unistep prepare compact-distilled --data photos --out pairs --set train.restorer=r.safetensors"""
EXPORT = """Example:
  unistep export run student.safetensors --authors tsdsr"""
PULL = """Examples:
  unistep models pull sd3-medium
  unistep models pull somebody/stable-diffusion-2-1-base@main"""
CONVERT = """Examples:
  unistep models convert tsdsr t.safetensors --base sd3-medium --embedding tsdsr/default
  unistep models convert osediff.pkl o.safetensors --base sd21-base --prompt ""
  unistep models convert SinSR_v2.pth s.safetensors --vae autoencoder_vq_f4.pth
  unistep models convert vgg16-397923af.pth vgg16.safetensors"""
BENCH = """Examples:
  unistep bench --size 256 --repeat 10
  unistep bench compact-distilled other.safetensors RRDBNet-23 bicubic --growth --out result
  unistep bench sd3 sd21 resshift --count

A MODEL is what unistep upscale -m takes, bicubic, or an architecture with untrained
weights: SRVGGNetCompact-32, RRDBNet-23, sd3, sd21, resshift. Options of one model stand
behind it: FILE,steps=4 FILE,weights=int8 FILE,offload FILE,decoder=tiny FILE,text=BASE.
See docs/bench.md."""
