"""The rows of the comparison: the methods as their recipes have them, and their papers' ablations."""

Row = tuple[str, tuple[str, ...]]
"""A recipe, and what the row changes in it."""

ROWS: dict[str, Row] = {
    "compact-tsdsr": ("compact-tsdsr", ()),
    "compact-dfosd": ("compact-dfosd", ()),
    "compact-tadsr": ("compact-tadsr", ()),
}
"""The methods as their recipes have them, on the whole budget."""

ABLATIONS: dict[str, Row] = {
    "tsdsr": ("compact-tsdsr", ()),
    "tsdsr-without-tsm": ("compact-tsdsr", ("method.lambda_vsd=1",)),
    "tsdsr-without-dasm": ("compact-tsdsr", ("method.dasm_steps=0",)),
    "tsdsr-n2": ("compact-tsdsr", ("method.dasm_steps=2",)),
    "tsdsr-n8": ("compact-tsdsr", ("method.dasm_steps=8",)),
    "tsdsr-s25": ("compact-tsdsr", ("method.dasm_stride=25",)),
    "tsdsr-s100": ("compact-tsdsr", ("method.dasm_stride=100",)),
    "tsdsr-naive-vsd": ("compact-tsdsr", ("method.lambda_vsd=1", "method.dasm_steps=0")),
    "tsdsr-mse": ("compact-tsdsr", ("method.weight_mse=1", "method.gamma=0")),
    "tsdsr-released": (
        "compact-tsdsr",
        (
            "method.dasm_steps=1",
            "method.weight_mse=1",
            "method.released_skip_last=true",
            "method.released_first_t=true",
            "method.released_no_grad=true",
            "method.released_score=true",
        ),
    ),
    "dfosd": ("compact-dfosd", ()),
    "dfosd-nad-from-large": ("compact-dfosd", ("train.critic_init=LARGE",)),
    "dfosd-no-gan": ("compact-dfosd", ("method.discriminator=none",)),
    "dfosd-vanilla-gan": ("compact-dfosd", ("method.discriminator=vanilla",)),
    "dfosd-diffusion-gan": ("compact-dfosd", ("method.discriminator=diffusion-gan",)),
    "dfosd-mse": ("compact-dfosd", ("method.spatial=mse",)),
    "dfosd-t-lpips": ("compact-dfosd", ("method.spatial=lpips",)),
    "dfosd-t-ea-lpips": ("compact-dfosd", ("method.spatial=ea-lpips",)),
    "dfosd-t-dists": ("compact-dfosd", ("method.spatial=dists",)),
    "dfosd-adv-0.1": ("compact-dfosd", ("method.lambda_adv=0.1",)),
    "dfosd-adv-1": ("compact-dfosd", ("method.lambda_adv=1",)),
    "dfosd-perceptual-0.1": ("compact-dfosd", ("method.lambda_perceptual=0.1",)),
    "dfosd-perceptual-1": ("compact-dfosd", ("method.lambda_perceptual=1",)),
    "tadsr": ("compact-tadsr", ()),
    "tadsr-sds-gan": ("compact-tadsr", ("method.score=sds", "method.time_aware=false")),
    "tadsr-sds-tgan": ("compact-tadsr", ("method.score=sds",)),
    "tadsr-hsd-gan": ("compact-tadsr", ("method.time_aware=false",)),
}
"""One change each, on a smaller network and budget: TSD-SR Tab. 4, Fig. 4, Tab. 7; DFOSD
Tab. 5, Tab. 6, and a sweep of lambda_1 and lambda_2; TAD-SR Tab. V."""
