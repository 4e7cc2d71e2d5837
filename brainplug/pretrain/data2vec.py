"""The objective of data2vec: to say at masked frames what a slower copy of the model makes of the whole clip.

Baevski et al., "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language", 2022,
section 3, https://arxiv.org/abs/2202.03555
"""

import copy

import torch
from transformers import Data2VecAudioModel

from brainplug.errors import UsageError

EPSILON = 1e-5  # of the instance norm
NORMAL_EPSILON = 1e-7  # of the waveforms, as the feature extractor of the family has it


class Teacher:
    """An average over the student's past, of its transformer layers; all before them is the student's own.

    ``teacher <- tau teacher + (1 - tau) student`` after each step, in 32 bits.

    Arguments
    ---------
    student : Data2VecAudioModel
        What is trained.
    top : int
        Of how many layers, from the last one on, the feed-forward output is the target.

    Raises
    ------
    UsageError
        The student has fewer layers.
    """

    def __init__(self, student: Data2VecAudioModel, top: int):
        layers = len(student.encoder.layers)
        if not 1 <= top <= layers:
            raise UsageError(
                f"Targets of the top {top} layers were asked for.", f"The model has {layers}.", f"Write top: {layers}"
            )
        self.student, self.top = student, top
        self.encoder = copy.deepcopy(student.encoder).float().eval().requires_grad_(False)  # eval: no layerdrop

    def averaged(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What is averaged, and the student's own.

        Returns
        -------
        tuple[list[torch.Tensor], list[torch.Tensor]]
            Parameters of the layers and of the layer norm before them, of the teacher and of the student.
        """
        both = []
        for encoder in (self.encoder, self.student.encoder):
            both.append(
                [parameter.data for part in (encoder.layers, encoder.layer_norm) for parameter in part.parameters()]
            )
        return tuple(both)

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        """Averages the student in, after its step; one call for all parameters.

        Arguments
        ---------
        tau : float
            How much of the teacher stays, 0 to 1.
        """
        teacher, student = self.averaged()
        torch._foreach_lerp_(teacher, [parameter.float() for parameter in student], 1 - tau)

    @torch.no_grad()
    def targets(self, features: torch.Tensor) -> torch.Tensor:
        """What the student is to predict.

        Arguments
        ---------
        features : torch.Tensor
            The student's projected features of whole clips, ``[batch, frames, dim]``.

        Returns
        -------
        torch.Tensor
            The mean over the top layers of the feed-forward blocks' outputs, each brought to mean 0 and variance 1 over
            a clip's frames, ``[batch, frames, dim]``.
        """
        # The positions are the student's own.
        self.encoder.pos_conv_embed.load_state_dict(self.student.encoder.pos_conv_embed.state_dict())
        outputs: list[torch.Tensor] = []
        hooks = [
            layer.feed_forward.register_forward_hook(lambda block, inputs, output: outputs.append(output))
            for layer in self.encoder.layers[-self.top :]
        ]
        try:
            self.encoder(features.float())
        finally:
            for hook in hooks:
                hook.remove()
        normalised = [
            torch.nn.functional.instance_norm(output.transpose(1, 2), eps=EPSILON).transpose(1, 2) for output in outputs
        ]
        return torch.stack(normalised).mean(0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The teacher's weights."""
        return self.encoder.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` returned."""
        self.encoder.load_state_dict(state)


def tau_at(step: int, start: float, end: float, steps: int) -> float:
    """How much of the teacher stays.

    Arguments
    ---------
    step : int
        Steps that were made.
    start, end : float
        At the first step, and from `steps` on; linear between.
    steps : int
        How many it takes.

    Returns
    -------
    float
        From `start` to `end`.

    Example
    -------
    >>> [tau_at(step, 0.5, 1.0, 10) for step in (0, 5, 10, 20)]
    [0.5, 0.75, 1.0, 1.0]
    """
    return end if step >= steps else start + (end - start) * step / steps


def data2vec_loss(
    predictions: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, beta: float = 0.0
) -> torch.Tensor:
    """The distance at masked frames, summed over the width, over its square root, averaged over frames.

    Arguments
    ---------
    predictions, targets : torch.Tensor
        ``[batch, frames, dim]``.
    mask : torch.Tensor
        True where a frame was masked, ``[batch, frames]``.
    beta : float
        0: squares. Else smooth L1: ``d^2 / (2 beta)`` up to a distance of beta, ``|d| - beta / 2`` beyond.

    Returns
    -------
    torch.Tensor
        A scalar.

    Example
    -------
    >>> ones, mask = torch.ones(1, 3, 4), torch.tensor([[True, False, True]])
    >>> data2vec_loss(ones, 0 * ones, mask).item()
    2.0
    """
    predicted, wanted = predictions[mask].float(), targets[mask]
    if beta:
        each = torch.nn.functional.smooth_l1_loss(predicted, wanted, reduction="none", beta=beta)
    else:
        each = torch.nn.functional.mse_loss(predicted, wanted, reduction="none")
    return each.sum(1).mean() / predicted.shape[1] ** 0.5


class Data2VecPretraining(torch.nn.Module):
    """The student and its head.

    Arguments
    ---------
    model : Data2VecAudioModel
        What is trained.
    beta : float
        As in `data2vec_loss`.

    Example
    -------
    >>> from transformers import Data2VecAudioConfig
    >>> config = Data2VecAudioConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    ...     conv_dim=[8] * 7, num_conv_pos_embedding_groups=4)
    >>> pretraining = Data2VecPretraining(Data2VecAudioModel(config))
    >>> teacher = Teacher(pretraining.model, top=1)
    >>> mask = torch.arange(49) < 20
    >>> outputs = pretraining(torch.randn(2, 16000), mask.expand(2, 49), teacher)
    >>> outputs["targets"].shape
    torch.Size([2, 49, 16])
    """

    def __init__(self, model: Data2VecAudioModel, beta: float = 0.0):
        super().__init__()
        self.model, self.beta = model, beta
        self.head = torch.nn.Linear(model.config.hidden_size, model.config.hidden_size)
        torch.nn.init.uniform_(model.masked_spec_embed)

    def forward(
        self, waveforms: torch.Tensor, mask: torch.Tensor, teacher: Teacher, heard: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Computes the loss of a batch.

        Arguments
        ---------
        waveforms : torch.Tensor
            Crops without padding, ``[batch, samples]``; each is brought to zero mean and unit variance.
        mask : torch.Tensor
            True where a frame is masked, ``[batch, frames]``.
        teacher : Teacher
            Says what is to be predicted.
        heard : torch.Tensor, optional
            The crops as the student hears them, such as with noise; the teacher hears them without.

        Returns
        -------
        dict[str, torch.Tensor]
            ``loss``; ``predictions`` and ``targets`` ``[batch, frames, dim]``; the mask as it is.
        """
        heard = waveforms if heard is None else heard
        projected = self._project(heard)
        if heard is waveforms:
            targets = teacher.targets(projected.detach())
        else:
            with torch.no_grad():
                targets = teacher.targets(self._project(waveforms))
        hidden = self.model.masked_spec_embed.to(projected.dtype)
        tokens = self.model.encoder(torch.where(mask[..., None], hidden, projected)).last_hidden_state
        predictions = self.head(tokens)
        loss = data2vec_loss(predictions, targets, mask, self.beta)
        return {"loss": loss, "predictions": predictions, "targets": targets, "mask": mask}

    def _project(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms ``[batch, samples]`` to the features that layers take, ``[batch, frames, dim]``."""
        waveforms = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:], eps=NORMAL_EPSILON)
        return self.model.feature_projection(self.model.feature_extractor(waveforms).transpose(1, 2))[0]
