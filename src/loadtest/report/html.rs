//! This file builds HTML text in which data cannot become markup: markup is what stands in this program's source.

use std::fmt::{Display, Write};

use serde::Serialize;

/// A page in the making.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Adds markup. It lives as long as the program, so that no value from a run can be passed by mistake.
    pub(super) fn markup(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds a value as text, for element content and quoted attributes alike.
    pub(super) fn text(&mut self, value: impl Display) -> &mut Self {
        let mut escaping = Escaping(&mut self.0);
        write!(escaping, "{value}").expect("a String takes any text");
        self
    }

    /// Adds `value` as JSON that no HTML parser mistakes for the end of its element.
    pub(super) fn json(&mut self, value: &impl Serialize) -> &mut Self {
        let json = serde_json::to_string(value).expect("numbers and texts can be written as JSON");
        // In JSON these stand in strings only, where the escape means the same.
        let safe = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        self.0.push_str(&safe);
        self
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Control characters have no glyph and some no place in HTML at all.
                control if control.is_control() && control != '\n' => self.0.push('\u{fffd}'),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_text_in_elements_and_attributes() {
        let mut html = Html::default();
        html.markup("<p title=\"").text("\"'>").markup("\">").text("</p><script>\0&").markup("</p>");

        let expected = "<p title=\"&quot;&#39;&gt;\">&lt;/p&gt;&lt;script&gt;\u{fffd}&amp;</p>";
        assert_eq!(html.finish(), expected);
    }

    #[test]
    fn json_closes_no_element_and_still_says_the_same() {
        let hostile = "</script><!--<script>]]>&amp;";
        let mut html = Html::default();
        html.json(&hostile);

        let json = html.finish();

        assert!(!json.contains(['<', '>', '&']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }
}
