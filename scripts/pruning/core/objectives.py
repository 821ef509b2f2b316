"""The scalar objectives of a calibration sample whose gradients score neurons: names and what each is.

h is the residual stream after the last decoder layer, before the final norm, [T, d]. The paper's words, "the squared
norm of the final hidden states", allow all four energies; `energy` is the reading that its Table 4 fits best
(results/readings.md).
"""

OBJECTIVES = {
    "energy": "1/2 mean_t ||h||², before the final norm",
    "energy_post": "1/2 mean_t ||norm(h)||², after the final norm (transformers' hidden_states[-1])",
    "energy_last": "1/2 ||h||² of the last token alone",
    "energy_rest": "1/2 mean_t ||h||² without the first token, often a massive activation",
    "ce": "mean next-token cross-entropy",
}
