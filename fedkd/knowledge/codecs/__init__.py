"""Codecs: what compresses Knowledge on the wire. Any strategy's Knowledge, no edit to the strategy.

A codec turns Knowledge into a smaller message and back. Codecs form a chain; the receiver decodes it in reverse order.
A codec may code against a *base*: its own input in the last message that the receiver acknowledged. Both ends keep one base a
client and codec and move it only on acknowledgement, so a late, lost or rejected upload breaks no chain.

    float16, bfloat16     floating tensors in two bytes an element
    int8                  floating tensors in one byte an element and a scale a row
    bits1 ... bits16      soft labels by CFD's quantiser; bits1 is hard labels, bits32 no quantisation
    top1, top2, ...       the largest entries of each row of probabilities or logits
    svd, svd1 ... svd99   low-rank factors with so many percent of the energy; svd is svd95
    delta                 what changed since the last acknowledged message, bit for bit
    deflate               entropy coding; comes last

Lossy codecs belong before "delta": behind it they work too, but both ends then hold what the receiver could read.
A message whose header says ``EXACT`` is coded by lossless codecs only: a net that both ends must hold alike, to the bit.
"""

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.coding import EXACT, Bases, as_decoded, decode, encode, settled
from fedkd.knowledge.codecs.registry import CODECS, FAMILIES, chain

__all__ = ["CODECS", "EXACT", "FAMILIES", "Bases", "Codec", "as_decoded", "chain", "decode", "encode", "settled"]
