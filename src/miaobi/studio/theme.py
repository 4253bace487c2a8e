"""The studio's colours and shapes: paper and ink, and one accent, the red of a seal. Light and dark."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

SEAL = gr.themes.Color(name="seal", c50="#fdf5f3", c100="#fae7e3", c200="#f4cdc5", c300="#ebaa9d", c400="#de7c69", c500="#c9533d",
                       c600="#ad3b27", c700="#8f2f1f", c800="#76291d", c900="#63261c", c950="#36110b")
PAPER = gr.themes.Color(name="paper", c50="#faf9f7", c100="#f3f1ed", c200="#e6e2dc", c300="#d3cdc4", c400="#a49d93", c500="#78726a",
                        c600="#595550", c700="#423f3b", c800="#2a2927", c900="#1d1c1b", c950="#141413")


def theme(fonts: Sequence[str], mono: Sequence[str]) -> gr.themes.Base:
    made = gr.themes.Base(primary_hue=SEAL, secondary_hue=SEAL, neutral_hue=PAPER, font=[*fonts], font_mono=[*mono],
                          text_size=gr.themes.sizes.text_md, radius_size=gr.themes.sizes.radius_lg, spacing_size=gr.themes.sizes.spacing_lg)
    return made.set(
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950", body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100", body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white", background_fill_primary_dark="*neutral_900", background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_900", border_color_primary="*neutral_200", border_color_primary_dark="*neutral_800",
        block_background_fill="white", block_background_fill_dark="*neutral_900", block_border_width="1px", block_shadow="none",
        block_label_background_fill="transparent", block_label_background_fill_dark="transparent", block_label_border_width="0px",
        block_label_text_color="*neutral_600", block_label_text_color_dark="*neutral_400", block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_300", block_title_text_weight="500", block_label_text_weight="500",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        input_background_fill="white", input_background_fill_dark="*neutral_950", input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700", input_border_color_focus="*primary_600", input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400", input_border_width="1px", input_border_width_dark="1px", input_shadow="none", input_shadow_focus="none",
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600", button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white", button_primary_text_color_dark="white", button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200", button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700", button_secondary_text_color="*neutral_900",
        button_secondary_text_color_dark="*neutral_100", button_primary_shadow="none", button_secondary_shadow="none",
        button_transform_hover="none", button_transform_active="none", slider_color="*primary_600", slider_color_dark="*primary_400",
        link_text_color="*primary_600", link_text_color_dark="*primary_300", link_text_color_hover="*primary_700",
        color_accent_soft="*primary_50", color_accent_soft_dark="*neutral_800", error_text_color="*primary_700", layout_gap="18px")
