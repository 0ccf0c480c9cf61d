"""What lies behind bars that were missed: a profile or a floor, what was tried, what is left. By (suite, what is compared).

A note appears on the page as long as its bar is missed; numbers in it were measured on the machine of the results, in profiles
and trials apart from the rounds. `{}` is our median in the rounds themselves, us a token. `REMARKS` always stand, in the sections
of suites whose names begin so.
"""

from bench.absolute import OWN_TIME

RAW = "a plain file of the same values (share of its speed)"
SIX = "SAELens's six trainers on one stream, in their default precision, our best"
FLOOR = "share of the step that the bfloat16 encoder alone takes"

NOTES = {
    ("B09-floor-S", FLOOR): (
        "20 ms of a step do not depend on N: from N 1,024 to 4,096 it grows by 51 us a token (medians). They are what is done "
        "to the 2dF = 9.4 M parameters once a step, whose memory traffic alone is 42 bytes each: fused Adam reads weight, "
        "gradient and two moments and writes three of them (28), the gradient is written and read for its norm (8), weights "
        "become bfloat16 (6). That is 396 MB, 13.6 ms at the copy bandwidth of that suite, 13 us a token at N 1,024 and 3 at "
        "4,096. Encoder and this traffic together are 0.53 of the step at N 1,024 and 0.51 at 4,096: it comes about as near to "
        "what the machine allows in both, and the bar, which knows the encoder alone, is one on N. Tried in interleaved rounds "
        "on a busy core, and not adopted: clipping within Adam (`grad_scale`, as on a GPU) takes 9.0 ms instead of the 10.6 of "
        "norm, clipping and Adam, 1.6 us a token at N 1,024 (0.01 of the share) and 0.4 at 4,096, and changes the last bits of "
        "every trained SAE. With the same bits: clipping and Adam together on tiles of 64, 256 and 1,024 rows 14.1, 11.9 and "
        "12.3 ms; norms and bfloat16 copies tile by tile 7.5 to 10.5 ms, whole 7.9; gradients put into masters' units on tiles "
        "of 1,024 rows 4.5 ms, whole 5.5, 1 us a token."
    ),
    ("B09-floor-S4", FLOOR): (
        "See shape S. The encoder takes 24 to 26 us in every round, the step, which memory binds, 50 to 68: shares of "
        ".38 to .48. On an earlier day three rounds gave .48 to .49."
    ),
    ("B10-six-4096", SIX): (
        "The model's forward is the same on both sides and most of ours: (one forward each - one for all) / 5 is 458 us a token "
        "of our 644. What is left, six training steps, is 186 against 1,301 us: 7.0 times."
    ),
    ("B10-six-8192", SIX): (
        "As above: of our 746 us a token 487 are the model's forward; the six steps are 259 against 2,732 us, 10.5 times."
    ),
    ("B12-shuffle-262k", "SAELens mixing_buffer"): (
        "A batch is one gather, one scatter and the copy that stands for reading its shard: 14 kB a token, 0.45 us at the "
        "copy bandwidth of that suite. In trials apart 0.75 to 0.95 us in a process that keeps freed memory, 1.9 in one that "
        "does not (a page fault for every second token); in the rounds, beside other work on the machine, {:.2f}. Large pages "
        "for the ring and batches of 128 slots save another 0.1 us and are not used."
    ),
    ("B13-store-write", RAW): (
        "Both sides hand all values to the kernel in one call. NumPy reserves the file's blocks beforehand (fallocate), "
        "safetensors does not: with reserved blocks such a write took 0.31 us a token, without 0.49, whoever wrote; header "
        "and alignment made no difference. Left: a writer of our own that reserves. It would be a second implementation of "
        "the format for 0.2 of the 400 us that harvesting a token takes, in a thread that nobody waits for."
    ),
    ("B13-store-read", RAW): (
        "Shards are memory-mapped: copying 4,096 rows out of a mapping used before takes 0.14 us a token, out of a new one, "
        "whose pages must be entered first, 0.17 to 0.20, reading a plain file 0.10 to 0.12. Neighbouring rows are copied in "
        "one piece, rows with gaps one by one (0.18 us a token of bfloat16, where indexing took 0.31). A mapping costs no "
        "memory, and training's random batches need it."
    ),
    ("B14-statistics", "delphi's latent cache, in memory"): (
        "Sorting a million 64-bit numbers takes 12 ns each here, packing them 5. Activations are therefore put in order by "
        "transposing a sparse matrix (by feature, by token; 7 to 11 ns), and only candidates are sorted: two in five of the "
        "activations for the samples, one in four for the strongest. The rest are passes over a chunk's arrays, of which the "
        "random order's hash takes 6 ns and the intervals 5. The form before, with sorts alone, took 1.1 to 1.2 times as long "
        "in interleaved rounds on a busy core; it became no faster by chunks and runs of 125,000 to 1,000,000 rows, kept "
        "document runs or a radix sort of 16-bit features (13 ns)."
    ),
    ("B16-query", "delphi's splits, loaded and sorted"): (
        "In a profile, in which it took 1.5 us a token (46 ns an activation; in the rounds, on a busier machine, {:.2f}), "
        "decoding the file took 0.33, and each of the two aggregates, tokens and values of the 20 strongest, about 0.5; with "
        "`max` alone it was 0.76. One aggregate of pairs takes 2.0, sorted lists "
        "2.6, a threshold by feature and a second reading 1.4 to 1.8."
    ),
    ("B08-matryoshka-S", OWN_TIME): (
        "The two suites ran apart, so the load of two times is in it. Decoder, products with the error and gradients of the "
        "decoder are taken for five ranges of features, one after the other, and five errors of N x D are added up and kept, "
        "where BatchTopK has one. Not profiled, and nothing was tried."
    ),
}

REMARKS = {
    "B07-": (
        "Ours has the penalty on the number of active features, dictionary_learning the squared distance of that number from "
        "its target (20, its default). Thresholds and bandwidth begin at 0.001 on both sides."
    ),
    "B14-": (
        "The timed pass leaves out the correlations of features with neurons and dimensions of the residual stream, which the "
        "pass of the stage takes as well; delphi has none."
    ),
}
