"""Methods that optax_ortho does not have yet, recognized by the source of a set."""

NOT_YET = {
    "mkor": "MKOR",
    "dc-merge": "DC-Merge",
    "opcm": "OPCM merging",
    "orthomerge": "OrthoMerge",
    "sahagobinda/gpm": "gradient projection memory",
    "2509.16664": "lambda-orthogonality regularizer",
    "deel-lip": "LOrth regularizer of convolutions",
    "orthogonal-convolutional": "OCNN regularizer of convolutions",
    "kahnchana/opl": "orthogonal projection loss",
    "orthogonal_map": "orthogonal parametrization",
    "orthoreg": "OrthoReg regularizer",
}
"""A method by a word of its source, in lower case."""


def reason(cls: str, text: str) -> str:
    """Why a source is not replayed: its class decides, else all that is said of it."""
    for said in (cls.lower(), text.lower()):
        for word, method in NOT_YET.items():
            if word in said:
                return f"optax_ortho has no {method} yet"
    return f"optax_ortho has no counterpart of {cls or text or 'an unnamed source'}"
