"""The embedded default: the tiny reasoner, every preset of docs/methods.md, every table and figure of the paper."""

from pruning.config.analyses import (
    Ablation,
    Cases,
    Collapse,
    Latency,
    Overlap,
    Reading,
    Readings,
    Spectrum,
    Tradeoff,
    Trap,
)
from pruning.config.budgets import Budget
from pruning.config.calibration import Calibration
from pruning.config.datasets import GeneratedDataset
from pruning.config.default_datasets import PUBLISHED
from pruning.config.experiment import Experiment, Table
from pruning.config.methods import Method
from pruning.config.models import LocalSource, Model
from pruning.config.reasoner import Reasoner
from pruning.config.schema import Config
from pruning.config.tasks import LmEvalTask, PerplexityTask
from pruning.config.tuning import Tuning

TEMPLATES = [4, 6, 9, 10, 14, 16, 20, 24, 30, 34, 39, 40, 44, 48, 54, 57, 58, 69, 72, 78, 83, 95]

UNSEEN = [1, 12, 31, 43, 55, 62]  # templates that the tiny reasoner was not trained on
WORKED = {"prompt": "Question: {question}\nAnswer:", "completion": " {answer}"}
CHOICE = {"with_options": True, "fields": ["question", "answer", "template", "solutions", "gold"]}
EXACT_MATCH = "exact_match,strict-match"
SEVEN = ["wanda", "flap", "taylor_fo", "cfsp", "agf", "rku", "random"]


def sums(title: str, dataset: str) -> PerplexityTask:
    return PerplexityTask(
        kind="perplexity",
        title=title,
        dataset=dataset,
        text="Question: {question}\nAnswer: {answer}",
        joiner="<|endoftext|>",
        seqlen=256,
        tokens=25_600,
        batch_size=10,
    )


def calibration(**choices) -> Calibration:
    return Calibration(
        dataset="gsm_symbolic",
        samples=256,
        sequence_length=256,
        packing="document",
        micro_batch=16,
        shards=2,
        **choices,
    )


# Qwen2.5-7B's shape scaled down until two cores measure it in a minute.
QWEN_EIGHTH = {
    "model_type": "qwen2",
    "hidden_size": 448,
    "intermediate_size": 2368,
    "num_hidden_layers": 4,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "vocab_size": 19008,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def utility(objective: str, reduction: str, **choices) -> Method:
    return Method(score="utility", options={"objective": objective, "reduction": reduction}, **choices)


# docs/methods.md says why these are the paper's methods. `_global`: one ranking of the whole model instead of the same
# share of every layer. `_post`: the energy after the final norm.
METHODS = {
    "wanda": Method(score="wanda"),
    "wanda_global": Method(score="wanda", normalise="zscore", allocate="global"),
    "flap": Method(score="fluctuation", normalise="zscore", allocate="global", compensate="bias"),
    "flap_no_bias": Method(score="fluctuation", normalise="zscore", allocate="global"),
    "taylor_fo": utility("ce", "abs"),
    "taylor_fo_net": utility("ce", "net_abs"),
    "taylor_fo_global": utility("ce", "net_abs", normalise="layer_l2", allocate="global"),
    "taylor_param": Method(score="parameter_taylor"),
    "taylor_param_global": Method(score="parameter_taylor", allocate="global"),
    "taylor_param_joint": Method(score="parameter_taylor", allocate="joint"),
    "cfsp": Method(score="cfsp", allocate="cfsp"),
    "cfsp_refill": Method(score="cfsp", allocate="cfsp_refill"),
    "cfsp_as_code": Method(score="cfsp_as_code", allocate="cfsp"),
    "agf": utility("energy", "abs"),
    "agf_global": utility("energy", "abs", allocate="global"),
    "agf_post": utility("energy_post", "abs"),
    "rku": utility("energy", "share"),
    "rku_global": utility("energy", "abs", normalise="layer_sum", allocate="global"),
    "rku_post": utility("energy_post", "share"),
    "rku_global_post": utility("energy_post", "abs", normalise="layer_sum", allocate="global"),
    # Not the paper's: what the parts of the field make together (docs/methods.md, "The best that we know").
    "obs": Method(score="obs", allocate="global"),
    "obs_joint": Method(score="obs", allocate="joint"),
    "obs_output": Method(score="obs", options={"metric": "output"}, allocate="global"),
    "leverage": Method(score="leverage"),
    "rounds": Method(score="rounds", allocate="global"),
    "rounds_sensitivity": Method(score="rounds", allocate="sensitivity"),
    "rounds_greedy": Method(score="rounds", allocate="greedy"),
    "sensitivity": Method(score="obs", allocate="sensitivity"),
    "sensitivity_joint": Method(score="obs", allocate="sensitivity_joint"),
    "greedy": Method(score="obs", allocate="greedy"),
    "best": Method(score="rounds", allocate="sensitivity", compensate="ridge_attention"),
    "minitron": Method(score="minitron"),
    "random": Method(score="random", options={"seed": 0}),
    "magnitude": Method(score="magnitude"),
}

# Ways in which the paper's methods may have been computed (results/readings.md), each row all of them.
READINGS = {
    "presets": Reading(
        title="Energy before the final norm; RKU over its layer's sum, by sample; every layer cut alike",
        rku="rku",
        agf="agf",
        taylor="taylor_fo",
    ),
    "layer_constant": Reading(
        title="The presets, but RKU over its layer's sum, of all samples together",
        rku="energy-abs-layer_sum-uniform",
        agf="agf",
        taylor="taylor_fo",
    ),
    "taylor_net": Reading(
        title="The presets, but Taylor-FO lets a sample's tokens cancel (Molchanov 2017)",
        rku="rku",
        agf="agf",
        taylor="taylor_fo_net",
    ),
    "post": Reading(
        title="The presets, but the energy after the final norm", rku="rku_post", agf="agf_post", taylor="taylor_fo"
    ),
    "last_token": Reading(
        title="The presets, but the last token's energy alone",
        rku="energy_last-share-none-uniform",
        agf="energy_last-abs-none-uniform",
        taylor="taylor_fo",
    ),
    "rest": Reading(
        title="The presets, but the energy without the first token",
        rku="energy_rest-share-none-uniform",
        agf="energy_rest-abs-none-uniform",
        taylor="taylor_fo",
    ),
    "squared": Reading(
        title="The presets, but RKU squares the product of activation and gradient",
        rku="energy-sq-none-uniform",
        agf="agf",
        taylor="taylor_fo",
    ),
    "gradient": Reading(
        title="The presets, but RKU is the gradient's norm alone (the Fisher diagonal)",
        rku="energy-grad_sq-none-uniform",
        agf="agf",
        taylor="taylor_fo",
    ),
    "fisher": Reading(
        title="Equation 3 to the letter: RKU the root of Fisher's diagonal over its layer's sum, ranked over the model",
        rku="energy-grad_root-layer_sum-global",
        agf="energy-grad_root-none-global",
        taylor="taylor_fo",
    ),
    "global": Reading(
        title='"Global RKU": over its layer\'s sum, AGF and Taylor-FO raw; all three ranked over the model',
        rku="rku_global",
        agf="agf_global",
        taylor="ce-abs-none-global",
    ),
    "global_all": Reading(
        title='"Global RKU", with Taylor-FO over its layer\'s sum and Wanda ranked over the model, too',
        rku="rku_global",
        agf="agf_global",
        taylor="ce-abs-layer_sum-global",
        wanda="wanda_global",
    ),
    "global_post": Reading(
        title='"Global RKU", but the energy after the final norm',
        rku="rku_global_post",
        agf="energy_post-abs-none-global",
        taylor="ce-abs-none-global",
    ),
    "global_post_net": Reading(
        title='"Global RKU", but the energy after the norm and a Taylor-FO whose tokens cancel',
        rku="rku_global_post",
        agf="energy_post-abs-none-global",
        taylor="taylor_fo_global",
    ),
    "random": Reading(title="For scale: RKU a random mask", rku="random", agf="agf", taylor="taylor_fo"),
}

DEFAULT = Config(
    models={
        "tiny-reasoner": Model(source=LocalSource(kind="local", path="resources/tiny-reasoner"), memory_gb=1),
    },
    datasets={
        "gsm_symbolic": GeneratedDataset(
            kind="generated", templates=TEMPLATES, splits={"train": 1000, "test": 600}, **CHOICE, **WORKED
        ),
        # Out of distribution: the same stories with bigger numbers, and stories never seen.
        "gsm_symbolic_wider": GeneratedDataset(
            kind="generated", templates=TEMPLATES, difficulty=2.0, splits={"test": 400}, **CHOICE, **WORKED
        ),
        "gsm_symbolic_unseen": GeneratedDataset(
            kind="generated", templates=UNSEEN, splits={"test": 300}, **CHOICE, **WORKED
        ),
        "arithmetic": GeneratedDataset(
            kind="generated",
            content="arithmetic",
            splits={"train": 1000, "test": 400},
            fields=["question", "answer"],
            prompt="{question}",
            completion=" {answer}",
        ),
        **PUBLISHED,
    },
    calibrations={
        "gsm_symbolic-s0": calibration(
            seed=0, objectives=["energy", "energy_post", "energy_last", "energy_rest", "ce"]
        ),
        "gsm_symbolic-s1": calibration(seed=1),
        "gsm_symbolic-s2": calibration(seed=2),
    },
    methods=METHODS,
    tasks={
        "gsm_symbolic": LmEvalTask(
            kind="lm_eval", title="GSM-Symbolic", metrics=[EXACT_MATCH], limit=400, batch_size=400
        ),
        "gsm_symbolic_options": LmEvalTask(
            kind="lm_eval", title="5 options", metrics=["acc", "acc_norm"], limit=200, chance=0.2, batch_size=100
        ),
        "gsm_symbolic_wider": LmEvalTask(
            kind="lm_eval", title="Bigger numbers", metrics=[EXACT_MATCH], limit=300, batch_size=300
        ),
        "gsm_symbolic_unseen_options": LmEvalTask(
            kind="lm_eval",
            title="5 options, unseen stories",
            metrics=["acc", "acc_norm"],
            limit=300,
            chance=0.2,
            batch_size=100,
        ),
        "arithmetic": LmEvalTask(kind="lm_eval", title="Arithmetic", metrics=[EXACT_MATCH], limit=400, batch_size=400),
        "gsm_symbolic_text": sums("Solutions, perplexity", "gsm_symbolic"),
        "gsm_symbolic_wider_text": sums("Bigger numbers, perplexity", "gsm_symbolic_wider"),
    },
    tunings={
        "gsm_symbolic": Tuning(dataset="gsm_symbolic", learning_rate=1e-3, sequence_length=256),
        "arithmetic": Tuning(dataset="arithmetic", learning_rate=1e-3, sequence_length=64),
    },
    experiment=Experiment(
        models=["tiny-reasoner"],
        calibrations=["gsm_symbolic-s0"],
        methods=SEVEN,
        together=[
            ["gsm_symbolic", "gsm_symbolic_options"],
            ["gsm_symbolic_text", "gsm_symbolic_wider_text"],
            ["arithmetic", "gsm_symbolic_unseen_options"],
        ],
    ),
    tables={
        "table1": Table(
            title="Table 1: what pruning leaves of reasoning",
            tasks=["gsm_symbolic", "gsm_symbolic_options"],
            sparsities=[30, 40, 50],
            paper="table1",
        ),
        "table2": Table(
            title="Table 2: what pruning leaves of knowledge",
            tasks=["arithmetic", "gsm_symbolic_unseen_options"],
            sparsities=[30, 40, 60],
            paper="table2",
        ),
        "table3": Table(
            title="Table 3: LoRA recovery, in and out of domain",
            methods=["wanda", "taylor_fo", "agf", "rku"],
            tasks=[
                "gsm_symbolic@gsm_symbolic",
                "gsm_symbolic_wider@gsm_symbolic",
                "arithmetic",
                "gsm_symbolic_wider@arithmetic",
            ],
            sparsities=[30, 40, 50],
            paper="table3",
        ),
        "table6": Table(
            title="Table 6: perplexity over the sparsities",
            tasks=["gsm_symbolic_text", "gsm_symbolic_wider_text"],
            sparsities=[10, 20, 25, 30, 40, 50, 60, 70, 75],
            layout="long",
            paper="table6",
        ),
        "table7": Table(
            title="Table 7: everything else of the model",
            tasks=[
                "gsm_symbolic_text",
                "gsm_symbolic_wider_text",
                "arithmetic",
                "gsm_symbolic_options",
                "gsm_symbolic_unseen_options",
            ],
            sparsities=[30, 50, 70],
            layout="long",
            paper="table7",
        ),
        "recovery": Table(
            title="Recovery: the same models before and after LoRA",
            methods=["wanda", "taylor_fo", "agf", "rku"],
            tasks=[
                "gsm_symbolic",
                "gsm_symbolic@gsm_symbolic",
                "gsm_symbolic_wider",
                "gsm_symbolic_wider@gsm_symbolic",
                "gsm_symbolic_wider@arithmetic",
            ],
            sparsities=[40],
            reference="untuned",
        ),
        "ridge": Table(
            title="Ridge: the same masks with and without compensation",
            methods=[name for method in SEVEN for name in (method, f"ridge_{method}")],
            tasks=["gsm_symbolic"],
            sparsities=[30, 50],
            reference="uncompensated",
        ),
        "seeds": Table(
            title="Seeds: how much the choice of calibration text matters",
            calibrations=["gsm_symbolic-s0", "gsm_symbolic-s1", "gsm_symbolic-s2"],
            tasks=["gsm_symbolic"],
            sparsities=[40],
        ),
    },
    budgets={"four_fifths": Budget(parameters="80%")},
    overlap=Overlap(pairs=[("rku", "wanda"), ("rku", "taylor_fo"), ("rku", "agf"), ("rku_global", "wanda")]),
    readings=Readings(rows=READINGS),
    spectrum=Spectrum(),
    trap=Trap(),
    cases=Cases(
        dataset="gsm_symbolic",
        items=[0, 7, 13],
        until=["Question:"],
        target="{answer}",
        answer_pattern="#### (\\-?[0-9\\.\\,]+)",
    ),
    collapse=Collapse(task="gsm_symbolic", sparsities=[10, 20, 30, 40, 50, 60, 70]),
    ablation=Ablation(task="gsm_symbolic"),
    tradeoff=Tradeoff(
        tables=["table1", "ridge", "recovery"],
        prompt_tokens=256,
        decode_tokens=16,
    ),
    latency=Latency(
        shapes={"qwen2_5-7b-eighth": QWEN_EIGHTH},
        methods=SEVEN,
        prompt_tokens=512,
        decode_tokens=32,
    ),
    reasoner=Reasoner(
        seed=0,
        templates=TEMPLATES,
        held_out_templates=UNSEEN,
        drills=0.3,
        option_share=0.25,
        vocabulary=1280,
        shape={
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
        },
        context=1024,
        rows=16,
        length=512,
        steps=2400,
        learning_rate=0.003,
        weight_decay=0.05,
        test_size=600,
    ),
)
