"""The embedded default: the tiny reasoner, every preset of docs/methods.md, Table 1 at 30, 40 and 50%."""

from pruning import config as c

TEMPLATES = [4, 6, 9, 10, 14, 16, 20, 24, 30, 34, 39, 40, 44, 48, 54, 57, 58, 69, 72, 78, 83, 95]

METHODS = {
    "wanda": c.Method(score="wanda"),
    "wanda_global": c.Method(score="wanda", normalise="zscore", allocate="global"),
    "flap": c.Method(score="fluctuation", normalise="zscore", allocate="global"),
    "taylor_fo": c.Method(
        score="utility", options={"objective": "ce", "reduction": "net_abs"}, normalise="layer_l2", allocate="global"
    ),
    "taylor_fo_uniform": c.Method(score="utility", options={"objective": "ce", "reduction": "net_abs"}),
    "cfsp": c.Method(score="cfsp", allocate="cfsp"),
    "cfsp_as_code": c.Method(score="cfsp_as_code", allocate="cfsp"),
    "agf": c.Method(score="utility", options={"objective": "energy", "reduction": "abs"}, allocate="global"),
    "rku": c.Method(
        score="utility", options={"objective": "energy", "reduction": "abs"}, normalise="layer_sum", allocate="global"
    ),
    "rku_uniform": c.Method(
        score="utility", options={"objective": "energy", "reduction": "abs"}, normalise="layer_sum"
    ),
    "minitron": c.Method(score="minitron"),
    "random": c.Method(score="random", options={"seed": 0}),
    "magnitude": c.Method(score="magnitude"),
}

DEFAULT = c.Config(
    models={
        "tiny-reasoner": c.Model(source=c.LocalSource(kind="local", path="resources/tiny-reasoner"), memory_gb=1),
    },
    datasets={
        "gsm_symbolic": c.GeneratedDataset(
            kind="generated",
            templates=TEMPLATES,
            with_options=True,
            splits={"train": 300, "test": 600},
            fields=["question", "answer", "template", "solutions", "gold"],
            prompt="Question: {question}\nAnswer:",
            completion=" {answer}",
        ),
    },
    calibrations={
        "gsm_symbolic-s0": c.Calibration(
            dataset="gsm_symbolic", samples=256, sequence_length=256, packing="document", micro_batch=16
        ),
    },
    methods=METHODS,
    tasks={
        "gsm_symbolic": c.LmEvalTask(
            kind="lm_eval", title="GSM-Symbolic", metrics=["exact_match,strict-match"], limit=400, batch_size=100
        ),
        "gsm_symbolic_options": c.LmEvalTask(
            kind="lm_eval", title="5 options", metrics=["acc"], limit=200, batch_size=100
        ),
    },
    tunings={
        "gsm_symbolic": c.Tuning(dataset="gsm_symbolic", learning_rate=1e-3, sequence_length=256),
    },
    table1=c.Table1(
        models=["tiny-reasoner"],
        calibrations=["gsm_symbolic-s0"],
        methods=["wanda", "flap", "taylor_fo", "cfsp", "agf", "rku", "random"],
        sparsities=[30, 40, 50],
        tasks=["gsm_symbolic", "gsm_symbolic_options"],
    ),
    reasoner=c.Reasoner(
        seed=0,
        templates=TEMPLATES,
        held_out_templates=[1, 12, 31, 43, 55, 62],
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
