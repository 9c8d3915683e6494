"""The mixture of 1991 against single networks, and the hierarchical mixture by EM.

    python -m experiments.mixture_1991 --config=configs/mixture_1991.py:demo   # a minute, 2 cores
    python -m experiments.mixture_1991 --config=configs/mixture_1991.py:cpu    # 25 seeds

The protocol is that of Jacobs et al. (1991, section 3): gradient descent on all training cases at
once, without momentum, until the mean squared error of the answers is 0.08.
"""

from ml_collections import ConfigDict

from moe import schema


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """25 seeds, as in the paper."""
    config = ConfigDict()
    config.name = "mixture_1991_cpu"
    config.seeds = 25
    config.pilots = 5  # other seeds, by which learning rates are chosen
    config.vowels = vowels()
    config.tables = tables()
    config.starts = starts()
    return config


def vowels() -> ConfigDict:
    """The task of the paper, by its own words and by another reading of them."""
    config = ConfigDict()
    config.rates = tuple(2.0**power for power in range(-1, 8))  # of the mean over cases
    config.criterion = 0.08  # mean squared error over training cases and outputs
    config.most_epochs = 4000
    config.models = {
        "mixture_4": {"experts": 4},
        "mixture_8": {"experts": 8},
        "network_6": {"experts": 1, "hidden": 6},
        "network_12": {"experts": 1, "hidden": 12},
    }
    # One output for each tuple: is the vowel one of these? With one, 4 and 8 experts have as many
    # weights as 6 and 12 hidden units, and an expert has one line of decision, as in the paper.
    config.published = "one output"
    config.readings = {
        "one output": (("i", "ɑ"),),
        "four outputs": (("i",), ("ɪ",), ("ɑ",), ("ʌ",)),
    }
    config.other_losses = ("expected", "cooperative")  # of mixture_4 with that reading
    return config


def tables() -> ConfigDict:
    """Held-out scores, each seed with a split of its own."""
    config = ConfigDict()
    config.hidden = {"autompg": 6, "wine": 9}  # units of the network, so that weights are as many
    config.leaves = {"depth": 2, "branches": 2}  # of the hierarchy; the mixture has as many experts
    config.ridge = 0.1
    config.rates = (0.01, 0.03, 0.1)  # of Adam, of which validation chooses
    config.gradient_steps = 1000
    config.em_steps = 100
    return config


def starts() -> ConfigDict:
    """EM and gradients from the same starts, on all rows of a table."""
    config = ConfigDict()
    config.tables = ("autompg", "wine")
    config.leaves = {"depth": 2, "branches": 2}
    config.rates = (0.01, 0.03, 0.1)  # of Adam, of which pilots choose
    config.gradient_steps = 10_000
    config.em_steps = 600
    config.nudge = 0.1  # standard deviation by which weights of EM's ends move for the near starts
    config.ridge = 0.1
    config.tolerances = (1e-2, 1e-6)  # of the objective, nats of all cases together
    return config


def demo() -> ConfigDict:
    """Three seeds, fewer rates and steps."""
    config = cpu()
    config.name = "mixture_1991_demo"
    config.seeds = 3
    config.pilots = 2
    config.vowels.rates = (4.0, 16.0, 64.0)
    config.vowels.most_epochs = 2000
    config.vowels.other_losses = ()
    config.tables.gradient_steps = 300
    config.tables.em_steps = 30
    config.starts.tables = ("autompg",)
    config.starts.gradient_steps = 2000
    config.starts.em_steps = 200
    return config
