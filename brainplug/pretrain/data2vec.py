"""The objective of data2vec: predict at masked frames the output of a slowly moving copy that sees the whole clip.

Baevski et al., "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language", 2022,
section 3, https://arxiv.org/abs/2202.03555
"""

import copy

import torch
from transformers import Data2VecAudioModel

from brainplug.errors import ConfigError

EPSILON = 1e-5  # of the instance norm
NORMAL_EPSILON = 1e-7  # of normalised waveforms, as in the family's feature extractor


class Teacher:
    """An exponential moving average of the student's transformer layers; all modules before them are the student's.

    ``teacher <- tau teacher + (1 - tau) student`` after each step, in 32 bits. The feed-forward outputs of the `top`
    last layers are the student's targets.
    """

    def __init__(self, student: Data2VecAudioModel, top: int):
        layers = len(student.encoder.layers)
        if not 1 <= top <= layers:
            raise ConfigError(
                f"Targets of the top {top} layers were asked for.",
                f"The model has {layers}.",
                f"Write top_layers: {layers}",
            )
        self.student, self.top = student, top
        self.encoder = copy.deepcopy(student.encoder).float().eval().requires_grad_(False)  # eval: no layerdrop

    def averaged(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The averaged parameters of the teacher, and those of the student: layers, and the layer norm before them."""
        teacher, student = (
            [parameter.data for part in (encoder.layers, encoder.layer_norm) for parameter in part.parameters()]
            for encoder in (self.encoder, self.student.encoder)
        )
        return teacher, student

    @torch.no_grad()
    def update(self, tau: float) -> None:
        """Averages the student in after its step; `tau`, 0 to 1, is the weight of the teacher."""
        teacher, student = self.averaged()
        torch._foreach_lerp_(teacher, [parameter.float() for parameter in student], 1 - tau)

    @torch.no_grad()
    def targets(self, features: torch.Tensor) -> torch.Tensor:
        """Maps the student's projected features of whole clips to its targets, both ``[batch, frames, dim]``.

        Targets are the mean of the top layers' feed-forward outputs, each normalised to mean 0 and variance 1 over the
        frames of a clip.
        """
        # Position embeddings are the student's own.
        self.encoder.pos_conv_embed.load_state_dict(self.student.encoder.pos_conv_embed.state_dict())
        outputs: list[torch.Tensor] = []
        hooks = [
            layer.get_submodule("feed_forward").register_forward_hook(
                lambda block, inputs, output: outputs.append(output)
            )
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
        """Restores the weights of `state_dict`."""
        self.encoder.load_state_dict(state)


def tau_at(step: int, start: float, end: float, steps: int) -> float:
    """The teacher's weight after some steps: linear from `start` to `end` over `steps` steps, then constant.

    Example
    -------
    >>> [tau_at(step, 0.5, 1.0, 10) for step in (0, 5, 10, 20)]
    [0.5, 0.75, 1.0, 1.0]
    """
    return end if step >= steps else start + (end - start) * step / steps


def data2vec_loss(
    predictions: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, beta: float = 0.0
) -> torch.Tensor:
    """The error at masked frames: summed over dimensions, divided by the root of their number, averaged over frames.

    Arguments
    ---------
    predictions, targets, mask : torch.Tensor
        ``[batch, frames, dim]``, and ``[batch, frames]``, True where a frame was masked.
    beta : float
        0: squared error. Else smooth L1: ``d^2 / (2 beta)`` up to a distance of beta, ``|d| - beta / 2`` beyond.
    """
    predicted, expected = predictions[mask].float(), targets[mask]
    if beta:
        errors = torch.nn.functional.smooth_l1_loss(predicted, expected, reduction="none", beta=beta)
    else:
        errors = torch.nn.functional.mse_loss(predicted, expected, reduction="none")
    return errors.sum(1).mean() / predicted.shape[1] ** 0.5


class Data2VecPretraining(torch.nn.Module):
    """The student with its prediction head; `beta` is that of `data2vec_loss`."""

    def __init__(self, model: Data2VecAudioModel, beta: float = 0.0):
        super().__init__()
        self.model, self.beta = model, beta
        self.head = torch.nn.Linear(model.config.hidden_size, model.config.hidden_size)
        torch.nn.init.uniform_(model.masked_spec_embed)

    def forward(
        self, waveforms: torch.Tensor, mask: torch.Tensor, teacher: Teacher, augmented: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Computes the loss of a batch.

        Arguments
        ---------
        waveforms : torch.Tensor
            Crops without padding, ``[batch, samples]``; each is normalised to mean 0 and variance 1.
        mask : torch.Tensor
            True where a frame is masked, ``[batch, frames]``.
        augmented : torch.Tensor, optional
            The student's input where it differs from the teacher's, such as the crops with noise.

        Returns
        -------
        dict[str, torch.Tensor]
            ``loss``, ``predictions`` and ``targets`` ``[batch, frames, dim]``, and the given ``mask``.
        """
        augmented = waveforms if augmented is None else augmented
        projected = self._project(augmented)
        if augmented is waveforms:
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
        """Maps waveforms ``[batch, samples]`` to the input of the layers, ``[batch, frames, dim]``."""
        waveforms = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:], eps=NORMAL_EPSILON)
        return self.model.feature_projection(self.model.feature_extractor(waveforms).transpose(1, 2))[0]
