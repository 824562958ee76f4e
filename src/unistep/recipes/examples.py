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
