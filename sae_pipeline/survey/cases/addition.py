"""Functions that add (paper, 'Features representing functions'): is there one feature, directly and through composition?"""

from collections import Counter

import numpy as np
import torch

from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, fill, half_of, load
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import from_spans, with_bos
from sae_pipeline.survey.cases.selection import aurocs, detect, probe_auroc, tested, tested_beside
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE = "addition_function"


def run(world: World) -> Found:
    """Chosen on direct additions of half A, tested on direct and composed ones of half B, scored on the calling line alone."""
    texts, rows = load("functions"), []
    for kind, templates in ((kind, texts[kind]) for kind in ("direct", "composed")):
        for place, name in enumerate(texts["names"]):
            for shift in (0, 1):
                m, n = texts["numbers"][(place // 2 + 5 * shift) % len(texts["numbers"])]
                other = texts["names"][(place + 2) % len(texts["names"])]
                for operation, template in templates.items():
                    text = fill(template, f=name, g=other, m=m, n=n)
                    rows.append((kind, half_of(place), operation == "add", text, m + n if operation == "add" else m * n))
    kind_I, half_I, positive_I, names, results = (list(column) for column in zip(*rows, strict=True))
    half_I, positive_I, direct_I = np.array(half_I), np.array(positive_I), np.array(kind_I) == "direct"
    calls = [from_spans(world.lm, text, [(text.rindex(">>>"), len(text))]) for text in names]
    reading = world.read(calls, "functions")
    # A function that adds and its twin that multiplies are one group.
    groups = np.repeat(np.arange(len(rows) // 2), 2).tolist()
    choose_I, report_I = (half_I == "choose") & direct_I, half_I == "report"
    detection = detect(reading.features.max_IF, reading.null.max_IF, positive_I, choose_I, report_I, groups, world.seed)
    found = Found()
    found.add_detection(CASE, "direct", detection)
    value_I, null_I = reading.features.max_IF[:, detection.unit], reading.null.max_IF[:, detection.null_unit]
    (random_R,) = world.random_rivals([detection.unit], [detection.score_F]).T
    random_IR = reading.features.max_IF[:, random_R]
    found.add_random(CASE, "direct", random_R, detection.score_F, aurocs(random_IR[report_I], positive_I[report_I]))
    found.add_items(CASE, "call", names, half_I, positive_I, value_I, null_I)
    said = digits_said(world, names)
    executed = float(np.mean([digit == int(str(result)[0]) for digit, result in zip(said, results, strict=True)]))
    favourite, n_times = Counter(said).most_common(1)[0]
    probe = probe_auroc(reading.x_ID, positive_I, choose_I, report_I)
    for name, at_I in (("addition_function_auroc", report_I), ("addition_function_auroc_composed", report_I & ~direct_I)):
        kept = [group for group, keep in zip(groups, at_I, strict=True) if keep]
        value, control, difference = tested(value_I[at_I], null_I[at_I], positive_I[at_I], kept, world.seed)
        beside = tested_beside(value_I[at_I], random_IR[at_I], positive_I[at_I], kept, world.seed)
        found.measurements += with_random_features(
            Measurement(
                name, "AUROC on the calling line, functions that add against the same that multiply", value.value,
                int(at_I.sum()), len(rows), world.size, value.low, value.high, DIRECTION, control, difference.value,
                difference.low, difference.high,
                ceiling_metric="share of calls after which the likeliest digit is the result", ceiling=executed,
                ceiling_threshold=thresholds().executes_calls,
                why=f"a dense probe reaches {probe:.2f}; the likeliest digit is {favourite} after {n_times} of {len(said)} calls",
                files_sha=digest("functions"), rows="case_items", figure=FIGURE,
            ), beside,
        )  # fmt: skip
    return found


@torch.no_grad()
def digits_said(world: World, texts: list[str]) -> list[int]:
    """The likeliest digit after each text; whether a digit is likely at all is not asked."""
    digits = [world.lm.tokenize(digit, bos=False)[0] for digit in "0123456789"]
    found = []
    for text in texts:
        ids = with_bos(world.lm, world.lm.tokenize(text, bos=False))
        logits_TV = world.lm.model(input_ids=torch.tensor([ids], device=world.lm.device), use_cache=False).logits[0]
        found.append(int(logits_TV[-1, digits].argmax()))
    return found
