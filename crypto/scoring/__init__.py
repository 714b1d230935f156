"""Scoring under encryption: a consumer's features meet an owner's model, and neither is seen.

The consumer (rank 1) encrypts features under its own CKKS key; the model's owner (rank 0) computes
on ciphertexts and returns encrypted scores; the consumer decrypts, and releases rounded scores.

    shape       what both know of a model: features and their bounds, outputs, decimals
    model       the weights, and the exact plain answer that the protocol is held to
    sigmoid     the polynomials that stand in for the logistic function, with their stated errors
    parameters  CKKS parameter sets and their security level
    hiding      how well the reply hides the weights, and the noise that does it
    packing     rows to slots and back
    circuits    what the owner computes, step by step
    protocol    the messages

What each learns. The owner: that a scoring happened, its row count (stated in the plan) and nothing
of features or scores. The consumer: its scores. Scores of enough chosen rows determine a model (a
linear one of d features: d + 1 rows; a network: as many as it has coefficients, at most
(d + 1)(d + 2) / 2): that is not a leak of the encryption, and the plan's row limit is the only
thing that holds it back. A logistic score is no secret keeper either: it says the same as its
logit, up to rounding and saturation.

Assumed: both follow the protocol, and ring learning with errors is hard. An owner that deviates
learns no more (it gets nothing back) but can return wrong scores. A consumer that deviates can send
values outside the bounds or a key of its own shape and so learn more of the weights than scores
tell: TenSEAL offers no proof of a well-formed ciphertext.
Source: Cheon, Kim, Kim and Song 2017 (CKKS).
"""
