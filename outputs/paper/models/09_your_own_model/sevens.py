import sys

from safetensors.torch import load_model

from fpnlib import FlowPluginNetwork
from fpnlib.base_models import ConvVAE

base, plugin = sys.argv[1:]
model = ConvVAE(40)
load_model(model, base)
fpn = FlowPluginNetwork.load(plugin, model)
sevens = fpn.generate(7, n=100, seed=0)
print(*sevens.shape, f"{sevens.double().sum():.9f}")