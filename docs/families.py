"""The families of methods: how the docs and the README sort the strategies."""

#: Family -> one line, the guide that explains it, its strategies. Every strategy is in one of them.
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Answers about public samples": (
        "Clients say what they predict for samples that all of them hold, so nets may differ.",
        "logits",
        (
            *("fedmd", "dsfl", "cfd", "cronus", "fedmd_nfdp", "d_distillation", "feddf"),
            *("kt_pfl", "fedet", "selective_fd", "fccl", "fccl_plus", "fedkt", "fedbe", "fedaux", "scarlet", "mhd"),
        ),
    ),
    "Answers by class": (
        "A mean output or feature for each class, a few hundred bytes; no public samples.",
        "logits",
        ("fd", "fedproto", "fedtgp", "fedgh", "feddistill"),
    ),
    "Answers about a client's own samples": (
        "Clients say something of each of their samples, and hear what others make of it; no public samples.",
        "logits",
        ("fedcache", "fedgkt"),
    ),
    "Weights, with distillation at the client": (
        "Weights are averaged, and the client learns from the global net or a small shared one as well.",
        "choose",
        ("fedntd", "fedlmd", "fedlmd_tf", "fedmlb", "moon", "fml", "fedkd", "fedmrl", "fedgkd", "pfedsd", "fedhkd"),
    ),
    "Samples that nobody has": (
        "Samples, or features, are made on which nets teach or learn: no public samples, in one round or many.",
        "choose",
        ("dense", "co_boosting", "dosfl", "fedftg", "fedgen"),
    ),
    "A student and its teachers": (
        "A net at the server learns from frozen nets: those of clients, or of finished runs.",
        "teachers",
        ("multi_teacher", "you2017", "feed", "amtml", "sskd", "hydra", "rl_kd", "uhc", "takd", "dgkd"),
    ),
    "Peers": (
        "Nets that learn side by side tell each other what they think of every mini-batch.",
        "peers",
        ("dml", "kdcl", "okddip", "mcl", "dcm", "ffl", "ffsd", "afd", "amln", "codistillation"),
    ),
    "A net that teaches itself": (
        "Its branches or exits, a moving average, what it was before, or its answers to other samples are its teachers.",
        "peers",
        ("one", "cl_ilr", "pcl", "byot", "mean_teacher", "born_again", "cskd", "snapshot", "tf_kd_self", "mutualnet"),
    ),
    "Encoders without labels": (
        "Clients train encoders by contrast between views, and exchange weights or representations.",
        "encoders",
        (
            *("fedsimclr", "fedmoco", "fedbyol", "fedprotocl", "fedu", "fedema", "fedx", "fedx_rep", "encoder_distillation"),
            "flesd",
        ),
    ),
    "Baselines": (
        "What a result must be held against.",
        "choose",
        ("fedavg", "lg_fedavg", "fedprox", "local", "local_encoders", "centralised", "ensemble"),
    ),
}
