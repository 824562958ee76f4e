"""What recipes gave when they were recorded: `unistep train RECIPE --smoke` compares with it."""

Losses = dict[str, float]
"""Name of a loss or of a gradient's norm -> its value."""

BANDS: dict[str, tuple[Losses, Losses]] = {
    "compact-teacher": (
        {
            "student/slot": 0.513732, "student/edge": 0.187884, "student/grad_norm": 0.0222215,
        },
        {
            "student/slot": 0.604566, "student/edge": 0.192477, "student/grad_norm": 0.0216018,
        },
    ),
    "compact-plain": (
        {
            "student/mse": 0.756242, "student/grad_norm": 2.90662,
        },
        {
            "student/mse": 0.812751, "student/grad_norm": 0.713659,
        },
    ),
    "compact-sharp": (
        {
            "student/mse": 1.27241, "student/grid": 0.0881072, "student/grad_norm": 4.36081,
        },
        {
            "student/mse": 4.82421, "student/grid": 0.107104, "student/grad_norm": 3.44363,
        },
    ),
    "compact-tsdsr": (
        {
            "student/tsd": 0.000577411, "student/lpips": 0.0102795, "student/mse": 0.0171873,
            "student/grad_norm": 0.0330793, "critic/score": 0.0678172, "critic/grad_norm": 0.193712,
        },
        {
            "student/tsd": 3.0187e-05, "student/lpips": 0.00810457, "student/mse": 0.0187856,
            "student/grad_norm": 0.0265183, "critic/score": 0.0871395, "critic/grad_norm": 0.267892,
        },
    ),
    "compact-dfosd": (
        {
            "student/mse": 0.756242, "student/ea_dists": 0.400073, "student/nad": 0.257348,
            "student/grid": 0.201935, "student/grad_norm": 3.23762, "critic/nad": 1.38835,
            "critic/grad_norm": 0.199209,
        },
        {
            "student/mse": 0.815349, "student/ea_dists": 0.37186, "student/nad": 0.255396,
            "student/grid": 0.148202, "student/grad_norm": 1.11857, "critic/nad": 1.3737,
            "critic/grad_norm": 0.333053,
        },
    ),
    "compact-tadsr": (
        {
            "critic/gan": 1.99952, "critic/grad_norm": 15.3995, "student/distill": 0.279546,
            "student/hsd": 0.206652, "student/gan": -0.0156346, "student/grad_norm": 0.302946,
        },
        {
            "critic/gan": 1.59535, "critic/grad_norm": 21.5913, "student/distill": 0.236208,
            "student/hsd": 0.300245, "student/gan": 0.0253047, "student/grad_norm": 0.22556,
        },
    ),
    "tsdsr-sd3": (
        {
            "student/tsd": 0.00307417, "student/lpips": 0.0193816, "student/mse": 1.17114,
            "student/grad_norm": 8.06775, "critic/score": 2.91978, "critic/grad_norm": 0.063097,
        },
        {
            "student/tsd": 0.00180039, "student/lpips": 0.0217647, "student/mse": 1.47532,
            "student/grad_norm": 7.55882, "critic/score": 1.65441, "critic/grad_norm": 0.0265741,
        },
    ),
    "tsdsr-sd21": (
        {
            "student/tsd": 0.136464, "student/lpips": 0.0229426, "student/mse": 129.606,
            "student/grad_norm": 888.208, "critic/score": 1.37986, "critic/grad_norm": 0.52076,
        },
        {
            "student/tsd": 0.00913953, "student/lpips": 0.0196589, "student/mse": 117.572,
            "student/grad_norm": 405.153, "critic/score": 1.55613, "critic/grad_norm": 0.444232,
        },
    ),
    "tsdsr-sd2": (
        {
            "student/tsd": 0.136464, "student/lpips": 0.0229426, "student/mse": 129.606,
            "student/grad_norm": 888.208, "critic/score": 1.37986, "critic/grad_norm": 0.52076,
        },
        {
            "student/tsd": 0.00913953, "student/lpips": 0.0196589, "student/mse": 117.572,
            "student/grad_norm": 405.153, "critic/score": 1.55613, "critic/grad_norm": 0.444232,
        },
    ),
    "dfosd-sd21": (
        {
            "student/mse": 0.27789, "student/ea_dists": 0.293202, "student/nad": 0.0753674,
            "student/grad_norm": 0.40162, "critic/nad": 1.39104, "critic/grad_norm": 0.125045,
        },
        {
            "student/mse": 0.199903, "student/ea_dists": 0.292471, "student/nad": 0.0675633,
            "student/grad_norm": 0.256387, "critic/nad": 1.39766, "critic/grad_norm": 0.259032,
        },
    ),
    "dfosd-sd21-sdxl": (
        {
            "student/mse": 0.27789, "student/ea_dists": 0.293202, "student/nad": 0.0684791,
            "student/grad_norm": 0.401998, "critic/nad": 1.39017, "critic/grad_norm": 0.203602,
        },
        {
            "student/mse": 0.20007, "student/ea_dists": 0.293188, "student/nad": 0.0712968,
            "student/grad_norm": 0.243044, "critic/nad": 1.38932, "critic/grad_norm": 0.266782,
        },
    ),
    "tadsr-resshift": (
        {
            "critic/gan": 2.00471, "critic/grad_norm": 0.85837, "student/distill": 0.481912,
            "student/hsd": 1.76049, "student/gan": -1.70068e-05, "student/grad_norm": 30.6335,
        },
        {
            "critic/gan": 2.00058, "critic/grad_norm": 0.258713, "student/distill": 0.40457,
            "student/hsd": 28.8809, "student/gan": -0.000194094, "student/grad_norm": 81.7835,
        },
    ),
    "tadsr-resshift-face": (
        {
            "critic/gan": 2.00471, "critic/grad_norm": 0.810359, "student/distill": 0.893075,
            "student/hsd": 0.00772416, "student/gan": -0.000143799, "student/grad_norm": 48.0044,
        },
        {
            "critic/gan": 2.00073, "critic/grad_norm": 0.344564, "student/distill": 0.7707,
            "student/hsd": 0.411344, "student/gan": -0.00170562, "student/grad_norm": 61.0741,
        },
    ),
    "osediff-sd21": (
        {
            "student/mse": 0.346929, "student/lpips": 0.0465174, "student/vsd": 0.00406777,
            "student/grad_norm": 23.0511, "critic/score": 1.3695, "critic/grad_norm": 3.52946,
        },
        {
            "student/mse": 0.28699, "student/lpips": 0.0395437, "student/vsd": 0.0322133,
            "student/grad_norm": 103.044, "critic/score": 1.40589, "critic/grad_norm": 9.5907,
        },
    ),
    "sinsr-resshift": (
        {
            "student/distill": 0.481912, "student/inverse": 4.77283, "student/gt": 0.61068,
            "student/grad_norm": 21.7959,
        },
        {
            "student/distill": 0.40286, "student/inverse": 4.55372, "student/gt": 0.460331,
            "student/grad_norm": 20.4886,
        },
    ),
}  # fmt: skip
"""Recipe -> what its first and its last step gave when they were recorded, on a CPU with torch 2.13."""
