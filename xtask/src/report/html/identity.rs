//! What ran, and how it is known: of every container the source digest, the reference and the image ID
//! at each place where they were seen, side by side. What is equal looks equal; what is not is named.
//! It compares as the proof does and takes nothing from it: the verdict of the run is the receipt's.

use std::collections::BTreeMap;

use super::facts::{BuiltFacts, Evidence, Facts, ImageFacts, ThirdParty, count};
use super::markup::{Element, Html, Tag, cut, new, picture};
use crate::digest::Digest;

/// How much of a digest is shown; the whole is its title.
const SHORT: usize = 12;
/// How much of any other value.
const LETTERS_MAX: usize = 48;

/// One container, or an image of which none was seen.
pub(super) struct Row {
    service: String,
    container: String,
    note: String,
    /// What was frozen, and what the process answered.
    source: Vec<Place>,
    /// What was computed, and what the container has.
    reference: Vec<Place>,
    /// As built, in the cluster, of the container.
    image: Vec<Place>,
}

/// What was seen at one place.
struct Place {
    head: &'static str,
    /// Each value once.
    values: Vec<String>,
    /// Why there is none.
    absent: &'static str,
}

/// How the places of a row stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Seen in every place, and the same.
    Equal,
    /// Seen somewhere as something else.
    Differs,
    /// Not seen everywhere: the run did not come so far.
    NotSeen,
}

impl Row {
    pub(super) fn standing(&self) -> Standing {
        let groups = [&self.source, &self.reference, &self.image];
        if groups.iter().any(|places| differs(places)) {
            return Standing::Differs;
        }
        let unseen = |place: &Place| place.values.is_empty() && place.absent == UNSEEN;
        match groups.iter().any(|places| places.iter().any(unseen)) {
            true => Standing::NotSeen,
            false => Standing::Equal,
        }
    }
}

const UNSEEN: &str = "not seen";
const NOT_ASKED: &str = "not asked";
const NOT_OURS: &str = "not built here";

fn differs(places: &[Place]) -> bool {
    let mut values = places.iter().flat_map(|place| &place.values);
    let first = values.next();
    values.any(|value| Some(value) != first)
}

/// What was seen of one container, before the tests and after them, of each replica.
#[derive(Default)]
struct Seen {
    references: Vec<String>,
    image_ids: Vec<String>,
    answers: Vec<String>,
    restarts: u64,
}

impl Seen {
    fn add(&mut self, evidence: &Evidence) {
        let once = |values: &mut Vec<String>, value: &str| {
            if !values.iter().any(|known| known == value) {
                values.push(value.to_owned());
            }
        };
        once(&mut self.references, &evidence.reference);
        once(&mut self.image_ids, &evidence.image_id);
        let answer = evidence.version.as_ref();
        if let Some(version) = answer.filter(|version| !version.is_null()) {
            let digest = version.get("source_digest").and_then(|it| it.as_str());
            once(&mut self.answers, digest.unwrap_or("no source digest"));
        }
        self.restarts = self.restarts.max(evidence.restart_count);
    }
}

/// A row for every container that was seen and every image of which none was.
pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    let mut seen: BTreeMap<(String, String), Seen> = BTreeMap::new();
    for evidence in facts.evidence.iter().chain(&facts.evidence_after_tests) {
        let container = short_name(&facts.run, &evidence.container);
        let key = (evidence.service.clone(), container);
        seen.entry(key).or_default().add(evidence);
    }
    let mut rows = Vec::new();
    for (service, image) in &facts.images {
        let of_it = seen.keys().filter(|(of, _)| of == service).cloned();
        let keys: Vec<_> = of_it.collect();
        if keys.is_empty() {
            rows.push(ours(service, "", image, None));
        }
        for key in keys {
            rows.push(ours(service, &key.1, image, seen.remove(&key)));
        }
    }
    for ((service, container), seen) in seen {
        let of = |image: &&ThirdParty| seen.references.contains(&image.reference);
        let image = facts.third_party.iter().find(of);
        let image = image.or_else(|| facts.third_party.iter().find(|it| it.name == service));
        rows.push(theirs(&service, &container, image, &seen));
    }
    rows
}

/// Without the run's ID, with which every container of a local cluster begins.
pub(super) fn short_name(run: &str, name: &str) -> String {
    let rest = name.strip_prefix(run).and_then(|it| it.strip_prefix('-'));
    rest.unwrap_or(name).to_owned()
}

fn ours(service: &str, container: &str, image: &ImageFacts, seen: Option<Seen>) -> Row {
    let place = |head, values: Vec<String>, absent| Place {
        head,
        values,
        absent,
    };
    let asked = !container.contains("-init-");
    let restarts = match &seen {
        Some(seen) => restarts(seen),
        None => ", no container was seen",
    };
    let seen = seen.unwrap_or_default();
    let one = |value: Option<&String>| value.cloned().into_iter().collect::<Vec<_>>();
    let built = image.built.as_ref();
    let loaded = image.loaded.as_ref();
    let pulled = loaded.and_then(|it| it.manifest_digest.as_ref());
    let in_cluster = loaded.and_then(|it| it.image_id.as_ref()).or(pulled);
    let of_built = built.and_then(|it| match pulled {
        Some(_) => it.manifest_digest.as_ref(),
        None => Some(&it.image_id),
    });
    let told = seen
        .image_ids
        .iter()
        .map(|told| as_pulled(told, built, pulled));
    let mut image_ids: Vec<String> = told.collect();
    image_ids.dedup();
    let references = seen.references.iter().map(|told| match pulled {
        Some(digest) => told.strip_suffix(&format!("@{digest}")).unwrap_or(told),
        None => told,
    });
    Row {
        service: service.to_owned(),
        container: container.to_owned(),
        note: match (built, loaded) {
            (Some(built), Some(loaded)) if loaded.already_there => {
                format!("{}, was in the cluster{restarts}", origin(built))
            }
            (Some(built), _) => format!("{}{restarts}", origin(built)),
            (None, _) => format!("not built{restarts}"),
        },
        source: vec![
            place("sources", vec![image.source_digest.clone()], UNSEEN),
            place(
                "process answers",
                seen.answers,
                if asked { UNSEEN } else { NOT_ASKED },
            ),
        ],
        reference: vec![
            place("computed", vec![image.reference.clone()], UNSEEN),
            place("container", references.map(str::to_owned).collect(), UNSEEN),
        ],
        image: vec![
            place("built", one(of_built), UNSEEN),
            place("in the cluster", one(in_cluster), UNSEEN),
            place("container", image_ids, UNSEEN),
        ],
    }
}

/// Of what was pulled a node tells `<name>@<manifest digest>`, some with a scheme before it, and some
/// the ID of the image: what the proof takes for the same has the same value here.
fn as_pulled(told: &str, built: Option<&BuiltFacts>, pulled: Option<&String>) -> String {
    let Some(pulled) = pulled else {
        return told.to_owned();
    };
    let bare = told.rsplit_once("://").map_or(told, |(_, bare)| bare);
    match (built, bare.rsplit_once('@')) {
        (Some(built), _) if built.image_id == bare => pulled.clone(),
        (_, Some((_, digest))) => digest.to_owned(),
        (_, None) => bare.to_owned(),
    }
}

fn theirs(service: &str, container: &str, image: Option<&ThirdParty>, seen: &Seen) -> Row {
    let place = |head, values: Vec<String>, absent| Place {
        head,
        values,
        absent,
    };
    let one = |value: Option<&String>| value.cloned().into_iter().collect::<Vec<_>>();
    Row {
        service: service.to_owned(),
        container: container.to_owned(),
        note: match image {
            Some(_) => format!("third party{}", restarts(seen)),
            None => format!("no image of the run is known for it{}", restarts(seen)),
        },
        source: vec![
            place("sources", Vec::new(), NOT_OURS),
            place("process answers", seen.answers.clone(), NOT_ASKED),
        ],
        reference: vec![
            place("computed", one(image.map(|it| &it.reference)), UNSEEN),
            place("container", seen.references.clone(), UNSEEN),
        ],
        image: vec![
            place("built", Vec::new(), NOT_OURS),
            place("provided", one(image.map(|it| &it.image_id)), UNSEEN),
            place("container", seen.image_ids.clone(), UNSEEN),
        ],
    }
}

fn restarts(seen: &Seen) -> &'static str {
    match seen.restarts {
        0 => "",
        1 => ", restarted once",
        _ => ", restarted several times",
    }
}

/// How an image came about, as a person would say it.
fn origin(built: &BuiltFacts) -> &str {
    match built.origin.as_str() {
        "built" => "compiled in this run",
        "kept" => "as an earlier run compiled it",
        "fetched" => "fetched",
        other => other,
    }
}

/// In few words: `3 containers as built`.
pub(super) fn verdict(rows: &[Row]) -> (Standing, String) {
    let of = |wanted| rows.iter().filter(|row| row.standing() == wanted).count();
    let (equal, differing) = (of(Standing::Equal), of(Standing::Differs));
    if rows.is_empty() {
        return (Standing::NotSeen, "no image was tagged".to_owned());
    }
    match (differing, of(Standing::NotSeen)) {
        (0, 0) => {
            let all = count(equal, "container");
            (Standing::Equal, format!("{all} as built"))
        }
        (0, unseen) => {
            let all = rows.len();
            let text = format!("{unseen} of {all} not seen to the end");
            (Standing::NotSeen, text)
        }
        (_, _) => {
            let text = format!("{differing} of {} not what was built", rows.len());
            (Standing::Differs, text)
        }
    }
}

/// The section's content.
pub(super) fn render(facts: &Facts) -> Html {
    let rows = rows(facts);
    let mut html = Html::default();
    let looked = match (
        facts.evidence.is_empty(),
        facts.evidence_after_tests.is_empty(),
    ) {
        (true, true) => "No container was looked at.",
        (_, true) => "Containers were looked at before the tests, and not after them.",
        (_, false) => "Containers were looked at before the tests and after them.",
    };
    let told = format!("Equal values have an equal picture. {looked}");
    html.add(new(Tag::P).class("quiet").with(told));
    if rows.is_empty() {
        return new(Tag::P)
            .class("quiet")
            .with("The run ended before an image had a tag.")
            .into();
    }
    let body: Html = rows.iter().map(render_row).collect();
    html.add(
        new(Tag::Table)
            .class("identity")
            .role("table")
            .with(table_head())
            .with(new(Tag::Tbody).role("rowgroup").with(body)),
    );
    html
}

fn table_head() -> Element {
    let group = |text: &str, columns: usize| {
        let head = new(Tag::Th).role("columnheader").columns(columns);
        head.with(text)
    };
    let head = |text: &str| new(Tag::Th).role("columnheader").with(text);
    new(Tag::Thead)
        .role("rowgroup")
        .with(
            new(Tag::Tr)
                .role("row")
                .with(group("", 1))
                .with(group("source digest", 2))
                .with(group("tag", 2))
                .with(group("image ID", 3))
                .with(group("", 1)),
        )
        .with(
            new(Tag::Tr)
                .role("row")
                .with(head("container"))
                .with(head("sources"))
                .with(head("process answers"))
                .with(head("computed"))
                .with(head("container"))
                .with(head("built"))
                .with(head("in the cluster"))
                .with(head("container"))
                .with(head("all")),
        )
}

fn render_row(row: &Row) -> Element {
    let name = new(Tag::Th)
        .role("rowheader")
        .with(new(Tag::Strong).with(cut(&row.service, LETTERS_MAX)))
        .with((row.container != row.service).then(|| {
            let container = cut(&row.container, LETTERS_MAX);
            new(Tag::Small).with(container)
        }))
        .with(new(Tag::Small).with(row.note.as_str()));
    let groups = [
        ("source digest", &row.source),
        ("tag", &row.reference),
        ("image ID", &row.image),
    ];
    let cells: Html = groups
        .into_iter()
        .flat_map(|(what, places)| {
            let wanted = places.iter().find_map(|place| place.values.first());
            places
                .iter()
                .enumerate()
                .map(move |(index, place)| cell(what, place, wanted, index == 0))
        })
        .collect();
    let standing = row.standing();
    let (class, text) = match standing {
        Standing::Equal => ("chip good", "✓ equal"),
        Standing::Differs => ("chip bad", "✗ differs"),
        Standing::NotSeen => ("chip open", "… not seen"),
    };
    let end = new(Tag::Td).role("cell").head("all");
    new(Tag::Tr)
        .role("row")
        .class(if standing == Standing::Differs {
            "differs"
        } else {
            ""
        })
        .with(name)
        .with(cells)
        .with(end.with(new(Tag::Span).class(class).with(text)))
}

fn cell(what: &str, place: &Place, wanted: Option<&String>, first: bool) -> Element {
    let class = if first { "first" } else { "" };
    let cell = new(Tag::Td)
        .role("cell")
        .class(class)
        .head(&format!("{what}: {}", place.head));
    if place.values.is_empty() {
        return cell.with(new(Tag::Span).class("quiet").with(place.absent));
    }
    let values: Html = place
        .values
        .iter()
        .map(|value| {
            let same = Some(value) == wanted;
            let mark = match (same, first) {
                (false, _) => Some(new(Tag::Span).class("mark bad").with("≠ ")),
                (true, false) => Some(new(Tag::Span).class("mark good").with("= ")),
                (true, true) => None,
            };
            new(Tag::Div)
                .class(if same { "value" } else { "value bad" })
                .with(mark)
                .with(shown(value))
        })
        .collect();
    cell.with(values)
}

/// A value with its picture: of a digest the first letters, of a reference what comes after the
/// last slash.
pub(super) fn shown(value: &str) -> Element {
    let fingerprint = Digest::of(value.as_bytes());
    let hex = value.strip_prefix("sha256:").unwrap_or(value);
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let short = match is_digest {
        true => hex[..SHORT].to_owned(),
        // What some tool said of itself.
        false if value.contains(char::is_whitespace) => {
            cut(value.lines().next().unwrap_or_default(), LETTERS_MAX)
        }
        false => {
            let last = value.rsplit('/').next().unwrap_or(value);
            let tag = last.split_once(':').map_or(last, |(_, tag)| tag);
            cut(tag, LETTERS_MAX)
        }
    };
    let bytes: Vec<u8> = fingerprint.to_string().into_bytes();
    new(Tag::Code)
        .title(&cut(value, 200))
        .with(picture(&halves(&bytes)))
        .with(short)
}

/// The bytes that hexadecimal digits stand for.
fn halves(hex: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    hex.chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
