//! HTML that is escaped by construction: a value of [`Html`] is made of text, which is escaped, and of
//! elements from a closed list. There is no script, no image, nothing that is fetched, and no link that
//! leaves the page; what would be needed for them has no name here.

use std::fmt::Write as _;

/// Whole, well-formed HTML.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Text, escaped.
    pub(super) fn text(text: &str) -> Self {
        let mut html = String::with_capacity(text.len() + 16);
        escape(text, &mut html);
        Self(html)
    }

    /// Adds to the end.
    pub(super) fn add(&mut self, more: impl Into<Self>) {
        self.0.push_str(&more.into().0);
    }

    /// How long it is.
    pub(super) const fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Html {
    fn from(text: String) -> Self {
        Self::text(&text)
    }
}

impl From<Element> for Html {
    fn from(element: Element) -> Self {
        let Element {
            tag,
            attributes,
            content,
        } = element;
        let name = tag.name();
        Self(format!("<{name}{attributes}>{}</{name}>", content.0))
    }
}

impl<H: Into<Self>> From<Option<H>> for Html {
    fn from(html: Option<H>) -> Self {
        html.map(Into::into).unwrap_or_default()
    }
}

impl<H: Into<Self>> FromIterator<H> for Html {
    fn from_iter<I: IntoIterator<Item = H>>(parts: I) -> Self {
        let mut html = Self::default();
        parts.into_iter().for_each(|part| html.add(part));
        html
    }
}

macro_rules! tags {
    ($($tag:ident $name:literal),+ $(,)?) => {
        /// The elements that there are. Each has a content and an end tag.
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Tag { $(#[doc = $name] $tag),+ }

        impl Tag {
            const fn name(self) -> &'static str {
                match self { $(Self::$tag => $name),+ }
            }
        }
    };
}

tags! {
    A "a", Article "article", Code "code", Dd "dd", Details "details", Div "div", Dl "dl", Dt "dt",
    Footer "footer", H1 "h1", H2 "h2", H3 "h3", Header "header", Li "li", Main "main", Nav "nav",
    Ol "ol", P "p", Pre "pre", Section "section", Small "small", Span "span", Strong "strong",
    Summary "summary", Table "table", Tbody "tbody", Td "td", Th "th", Thead "thead", Tr "tr",
    Ul "ul",
}

/// An element that is being made.
#[derive(Clone, Debug)]
pub(super) struct Element {
    tag: Tag,
    attributes: String,
    content: Html,
}

/// An element without attributes and content.
pub(super) const fn new(tag: Tag) -> Element {
    Element {
        tag,
        attributes: String::new(),
        content: Html(String::new()),
    }
}

/// A link to the element of this page that has this name.
pub(super) fn link_to(id: &str, text: &str) -> Element {
    new(Tag::A).attribute("href", &format!("#{id}")).with(text)
}

impl Element {
    /// Adds to what stands in it.
    pub(super) fn with(mut self, content: impl Into<Html>) -> Self {
        self.content.add(content);
        self
    }

    /// How it looks: names in `report.css`.
    pub(super) fn class(self, names: &'static str) -> Self {
        self.attribute("class", names)
    }

    /// What [`link_to`] leads to.
    pub(super) fn id(self, id: &str) -> Self {
        self.attribute("id", id)
    }

    /// What is read out in its place.
    pub(super) fn label(self, text: &str) -> Self {
        self.attribute("aria-label", text)
    }

    /// What it shows is told beside it.
    pub(super) fn unread(self) -> Self {
        self.attribute("aria-hidden", "true")
    }

    /// What it is to who cannot see it, where a narrow page lays it out as something else.
    pub(super) fn role(self, role: &'static str) -> Self {
        self.attribute("role", role)
    }

    /// The whole of what is shown in short.
    pub(super) fn title(self, text: &str) -> Self {
        self.attribute("title", text)
    }

    /// The head of its column, for where a narrow page has none.
    pub(super) fn head(self, text: &str) -> Self {
        self.attribute("data-head", text)
    }

    /// Of a cell: over how many columns it goes.
    pub(super) fn columns(self, count: usize) -> Self {
        self.attribute("colspan", &count.to_string())
    }

    /// Of something that folds: it is open.
    pub(super) fn open(self, open: bool) -> Self {
        match open {
            true => self.attribute("open", ""),
            false => self,
        }
    }

    /// Numbers for the style sheet, each as a property of that name.
    pub(super) fn numbers(self, numbers: &[(&'static str, f64)]) -> Self {
        let set = |&(name, number): &(&str, f64)| format!("--{name}:{number:.3}");
        let style: Vec<String> = numbers.iter().map(set).collect();
        self.attribute("style", &style.join(";"))
    }

    fn attribute(mut self, name: &'static str, value: &str) -> Self {
        let _ = write!(self.attributes, " {name}=\"");
        escape(value, &mut self.attributes);
        self.attributes.push('"');
        self
    }
}

/// A picture of a value, so that equal values are seen to be equal and others not: five by five
/// fields, the right half as the left, of a colour that follows from the value as well.
pub(super) fn picture(fingerprint: &[u8]) -> Html {
    let bit = |index: usize| {
        let byte = fingerprint.get(index / 8).copied().unwrap_or_default();
        byte >> (index % 8) & 1 == 1
    };
    let mut path = String::new();
    for (x, y) in (0..5).flat_map(|x| (0..5).map(move |y| (x, y))) {
        if bit(y * 3 + if x < 3 { x } else { 4 - x }) {
            let _ = write!(path, "M{x} {y}h1v1h-1z");
        }
    }
    let hue = fingerprint.get(2).map_or(0, |&byte| u32::from(byte)) * 360 / 256;
    Html(format!(
        "<svg class=\"picture\" viewBox=\"0 0 5 5\" aria-hidden=\"true\" style=\"--hue:{hue}\"><path d=\"{path}\"></path></svg>"
    ))
}

/// A whole file.
pub(super) fn document(title: &str, body: Html) -> String {
    const STYLE: &str = include_str!("report.css");
    // Whatever got into the page all the same: the browser runs nothing and fetches nothing.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
    let title = Html::text(title).0;
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}\n</body>\n</html>\n",
        body.0
    )
}

/// As text and as a value of an attribute. What a terminal would obey, and what turns the direction
/// of what follows, is shown and does nothing.
fn escape(text: &str, html: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(letter),
            '\0'..='\u{1f}' => {
                let shown = char::from_u32(0x2400 + u32::from(letter));
                html.push(shown.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            '\u{7f}'..='\u{9f}' => html.push(char::REPLACEMENT_CHARACTER),
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => {
                let _ = write!(html, "[U+{:04X}]", u32::from(letter));
            }
            _ => html.push(letter),
        }
    }
}

/// The text, or its beginning and how many letters are left out.
pub(super) fn cut(text: &str, letters_max: usize) -> String {
    match text.char_indices().nth(letters_max) {
        None => text.to_owned(),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{} ... and {more} more letters", &text[..end])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Html, Tag, cut, document, link_to, new};

    #[track_caller]
    fn check(text: &str, wanted: &str) {
        assert_eq!(Html::text(text).0, wanted);
        let element = Html::from(new(Tag::P).label(text));
        assert_eq!(element.0, format!("<p aria-label=\"{wanted}\"></p>"));
    }

    #[test]
    fn text_is_escaped_as_content_and_as_attribute() {
        check("a < b & c", "a &lt; b &amp; c");
        check("</script>\"'", "&lt;/script&gt;&quot;&#39;");
        check("&lt;", "&amp;lt;");
        check("ünïcode 日本 ✓\n\tx", "ünïcode 日本 ✓\n\tx");
    }

    #[test]
    fn what_a_terminal_or_a_bidirectional_text_would_obey_is_shown() {
        check("\u{1b}[31mred\0\u{7f}", "\u{241b}[31mred\u{2400}\u{fffd}");
        check("a\u{202e}b\u{2066}\u{feff}", "a[U+202E]b[U+2066][U+FEFF]");
    }

    #[test]
    fn elements_close_and_keep_their_content() {
        let list = new(Tag::Ul).class("x").with(
            ["<a>", "b"]
                .map(|text| new(Tag::Li).with(text))
                .into_iter()
                .collect::<Html>(),
        );
        assert_eq!(
            Html::from(list).0,
            "<ul class=\"x\"><li>&lt;a&gt;</li><li>b</li></ul>"
        );
    }

    #[test]
    fn a_link_stays_in_the_page() {
        let link = Html::from(link_to("javascript:alert(1)", "x"));
        assert_eq!(link.0, "<a href=\"#javascript:alert(1)\">x</a>");
    }

    #[test]
    fn a_title_is_escaped() {
        let page = document("</title><b>", "".into());
        assert!(page.contains("<title>&lt;/title&gt;&lt;b&gt;</title>"));
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöü", 1), "ä ... and 2 more letters");
    }
}
