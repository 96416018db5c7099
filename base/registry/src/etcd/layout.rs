//! The path of a node's key in etcd.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{super::Node, Scope, Service};

/// The named layouts. The first is what goim writes, the second what goim-example's documentation describes.
const NAMED: [(&str, &str); 2] =
    [("goim", "/{appid}/{env}/{region}/{zone}/{server}"), ("goim-docs", "/{env}/{appid}/{region}/{server}")];

/// The prefix before a node's path. Under this key stands what goim's own value has no room for.
pub(super) const META: &str = "/halley.meta";

/// The path of a node's key: `"goim"`, `"goim-docs"`, or a template of one's own.
///
/// A template consists of segments between slashes. Each is a fixed text or one of `{appid}` (`goim.comet`,
/// `goim.logic`), `{env}`, `{region}`, `{zone}`, `{server}` (`host:port`). `{appid}` has to be there and `{server}` has
/// to be last, because paths are read as well as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The text that was configured.
    text: String,
    segments: Vec<Segment>,
}

/// Why a text is no layout. The operator has to change the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The text is neither a name nor a path.
    #[error(
        "not a layout: write \"goim\", \"goim-docs\" or a path such as /{{appid}}/{{env}}/{{region}}/{{zone}}/{{server}}"
    )]
    NoPath,
    /// There are two slashes in a row, or one at the end.
    #[error("an empty segment in the path")]
    EmptySegment,
    /// There is a brace where none may be.
    #[error(
        "segment {0:?} is neither a fixed text nor one of {{appid}}, {{env}}, {{region}}, {{zone}}, {{server}} alone"
    )]
    Segment(String),
    /// The same placeholder appears twice.
    #[error("{0} stands in it twice")]
    Twice(&'static str),
    /// Without `{appid}` comets and logics could not be told apart.
    #[error("{{appid}} is missing: comets and logics could not be told apart")]
    NoAppId,
    /// The path does not end with the node.
    #[error("it has to end with {{server}}")]
    ServerNotLast,
    /// The keys would mix with Halley's own.
    #[error("it may not begin with {META}")]
    Reserved,
}

/// Why a node can have no key. The operator has to change the flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} cannot be part of an etcd key: it may not be empty nor hold a slash or a control character"
)]
pub struct PlaceError {
    /// `region`, `zone`, `env` or `server`.
    pub what: &'static str,
    /// Its value.
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Fixed(String),
    AppId,
    Env,
    Region,
    Zone,
    Server,
}

impl Segment {
    const PLACEHOLDERS: [(&str, Segment); 5] = [
        ("{appid}", Segment::AppId),
        ("{env}", Segment::Env),
        ("{region}", Segment::Region),
        ("{zone}", Segment::Zone),
        ("{server}", Segment::Server),
    ];

    fn parse(text: &str) -> Result<Self, LayoutError> {
        if text.is_empty() {
            return Err(LayoutError::EmptySegment);
        }
        if let Some((_, placeholder)) = Self::PLACEHOLDERS.iter().find(|(name, _)| *name == text) {
            return Ok(placeholder.clone());
        }
        match text.contains(['{', '}']) || text.chars().any(char::is_control) {
            true => Err(LayoutError::Segment(text.to_owned())),
            false => Ok(Segment::Fixed(text.to_owned())),
        }
    }
}

/// What a path says about its node; `None` for what the layout leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) service: Service,
    pub(super) env: Option<&'a str>,
    pub(super) region: Option<&'a str>,
    pub(super) zone: Option<&'a str>,
}

impl Layout {
    fn has(&self, segment: &Segment) -> bool {
        self.segments.contains(segment)
    }

    /// Whether a path contains the zone.
    pub(super) fn has_zone(&self) -> bool {
        self.has(&Segment::Zone)
    }

    /// Whether a path contains the region.
    pub(super) fn has_region(&self) -> bool {
        self.has(&Segment::Region)
    }

    /// Whether a path contains the environment.
    pub(super) fn has_env(&self) -> bool {
        self.has(&Segment::Env)
    }

    /// The key of a node.
    pub(super) fn key(&self, node: &Node) -> Result<String, PlaceError> {
        let mut key = String::new();
        for segment in &self.segments {
            let (what, value) = match segment {
                Segment::Fixed(text) => ("layout", text.as_str()),
                Segment::AppId => ("appid", node.service.app_id()),
                Segment::Env => ("env", node.env.as_str()),
                Segment::Region => ("region", node.region.as_str()),
                Segment::Zone => ("zone", node.zone.as_str()),
                Segment::Server => ("server", node.server.as_str()),
            };
            check_segment(what, value)?;
            key.push('/');
            key.push_str(value);
        }
        Ok(key)
    }

    /// The prefix of all keys of a scope. It ends with a slash, so that `sh` does not find `sh2`. Keys of other scopes
    /// may have the same prefix: [`Scope::holds`] decides.
    pub(super) fn prefix(&self, scope: &Scope) -> Result<String, PlaceError> {
        let mut prefix = String::from("/");
        for segment in &self.segments {
            let (what, value) = match segment {
                Segment::Fixed(text) => ("layout", text.as_str()),
                Segment::AppId => ("appid", scope.service.app_id()),
                Segment::Env => ("env", scope.env.as_str()),
                Segment::Region => ("region", scope.region.as_str()),
                Segment::Zone => match &scope.zone {
                    Some(zone) => ("zone", zone.as_str()),
                    None => break,
                },
                Segment::Server => break,
            };
            check_segment(what, value)?;
            prefix.push_str(value);
            prefix.push('/');
        }
        Ok(prefix)
    }

    /// Reads a path; `None` if it has another shape.
    pub(super) fn place<'a>(&self, key: &'a str) -> Option<Place<'a>> {
        let mut place = Place { service: Service::Comet, env: None, region: None, zone: None };
        let mut parts = key.strip_prefix('/')?.split('/');
        for segment in &self.segments {
            let part = parts.next().filter(|part| !part.is_empty())?;
            match segment {
                Segment::Fixed(text) => (text == part).then_some(())?,
                Segment::AppId => {
                    let mut services = [Service::Comet, Service::Logic].into_iter();
                    place.service = services.find(|service| service.app_id() == part)?;
                }
                Segment::Env => place.env = Some(part),
                Segment::Region => place.region = Some(part),
                Segment::Zone => place.zone = Some(part),
                Segment::Server => {}
            }
        }
        parts.next().is_none().then_some(place)
    }
}

fn check_segment(what: &'static str, value: &str) -> Result<(), PlaceError> {
    match value.is_empty() || value.contains('/') || value.chars().any(char::is_control) {
        true => Err(PlaceError { what, value: value.to_owned() }),
        false => Ok(()),
    }
}

impl Scope {
    /// Whether a node at this place belongs to this scope. What the layout leaves out is not compared.
    pub(super) fn holds(&self, place: &Place<'_>) -> bool {
        let is = |said: Option<&str>, wanted: &str| said.is_none_or(|said| said == wanted);
        self.service == place.service
            && is(place.env, &self.env)
            && is(place.region, &self.region)
            && self.zone.as_deref().is_none_or(|zone| is(place.zone, zone))
    }
}

impl Default for Layout {
    fn default() -> Self {
        "goim".parse().expect("its own name")
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let template = NAMED.iter().find(|(name, _)| *name == text).map_or(text, |(_, template)| template);
        let path = template.strip_prefix('/').ok_or(LayoutError::NoPath)?;
        let segments = path.split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        for (name, placeholder) in &Segment::PLACEHOLDERS {
            if segments.iter().filter(|segment| *segment == placeholder).count() > 1 {
                return Err(LayoutError::Twice(name));
            }
        }
        if !segments.contains(&Segment::AppId) {
            return Err(LayoutError::NoAppId);
        }
        if segments.last() != Some(&Segment::Server) {
            return Err(LayoutError::ServerNotLast);
        }
        if segments.first() == Some(&Segment::Fixed(META[1..].to_owned())) {
            return Err(LayoutError::Reserved);
        }
        Ok(Self { text: text.to_owned(), segments })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Layout {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Layout".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::ServerId;

    use super::*;

    fn comet() -> Node {
        Node {
            region: "sh".to_owned(),
            zone: "sh001".to_owned(),
            env: "prod".to_owned(),
            ..Node::new(Service::Comet, ServerId::new("127.0.0.1:3109"))
        }
    }

    fn scope(service: Service, zone: Option<&str>) -> Scope {
        Scope { service, env: "prod".to_owned(), region: "sh".to_owned(), zone: zone.map(str::to_owned) }
    }

    #[test]
    fn both_named_layouts_write_goims_keys() {
        let key = |layout: &str| layout.parse::<Layout>().unwrap().key(&comet()).unwrap();
        assert_eq!(key("goim"), "/goim.comet/prod/sh/sh001/127.0.0.1:3109");
        assert_eq!(key("goim-docs"), "/prod/goim.comet/sh/127.0.0.1:3109");
        assert_eq!(key("/im/{appid}/{server}"), "/im/goim.comet/127.0.0.1:3109");
    }

    #[test]
    fn a_written_path_reads_back() {
        for layout in ["goim", "goim-docs", "/a/{zone}/{appid}/b/{region}/{server}"] {
            let layout: Layout = layout.parse().unwrap();
            let key = layout.key(&comet()).unwrap();
            let place = layout.place(&key).unwrap();
            assert!(scope(Service::Comet, Some("sh001")).holds(&place), "{key}");
            assert_eq!(place.zone, layout.has_zone().then_some("sh001"));
            assert_eq!(place.region, layout.has_region().then_some("sh"));
            assert_eq!(place.env, layout.has_env().then_some("prod"));
        }
    }

    #[test]
    fn a_scope_watches_whole_segments() {
        let goim = Layout::default();
        assert_eq!(goim.prefix(&scope(Service::Logic, None)).unwrap(), "/goim.logic/prod/sh/");
        assert_eq!(goim.prefix(&scope(Service::Comet, Some("sh001"))).unwrap(), "/goim.comet/prod/sh/sh001/");
        let docs: Layout = "goim-docs".parse().unwrap();
        assert_eq!(docs.prefix(&scope(Service::Comet, Some("sh001"))).unwrap(), "/prod/goim.comet/sh/");
        // A zone in front of what the scope knows leaves it to `holds`.
        let zone_first: Layout = "/im/{zone}/{appid}/{env}/{region}/{server}".parse().unwrap();
        let logics = scope(Service::Logic, None);
        assert_eq!(zone_first.prefix(&logics).unwrap(), "/im/");
        for (key, held) in [
            ("/im/sh001/goim.logic/prod/sh/a:1", true),
            ("/im/sh001/goim.comet/prod/sh/a:1", false),
            ("/im/sh001/goim.logic/prod/sh2/a:1", false),
        ] {
            assert_eq!(logics.holds(&zone_first.place(key).unwrap()), held, "{key}");
        }
    }

    #[test]
    fn a_path_of_another_shape_is_no_place() {
        let goim = Layout::default();
        for key in [
            "/goim.comet/prod/sh/127.0.0.1:3109",
            "/goim.comet/prod/sh/sh001/more/127.0.0.1:3109",
            "/goim.comet/prod/sh/sh001/",
            "/goim.comet/prod//sh001/127.0.0.1:3109",
            "/goim.other/prod/sh/sh001/127.0.0.1:3109",
            "goim.comet/prod/sh/sh001/127.0.0.1:3109",
        ] {
            assert_eq!(goim.place(key), None, "{key}");
        }
    }

    #[test]
    fn a_template_that_could_not_be_read_back_is_refused() {
        use LayoutError::{EmptySegment, NoAppId, NoPath, Reserved, Segment, ServerNotLast, Twice};
        for (text, error) in [
            ("etcd", NoPath),
            ("{appid}/{server}", NoPath),
            ("/{appid}//{server}", EmptySegment),
            ("/{appid}/{server}/", EmptySegment),
            ("/{appid}-{env}/{server}", Segment("{appid}-{env}".to_owned())),
            ("/{service}/{server}", Segment("{service}".to_owned())),
            ("/{appid}/{appid}/{server}", Twice("{appid}")),
            ("/{env}/{server}", NoAppId),
            ("/{appid}/{env}", ServerNotLast),
            ("/{server}/{appid}", ServerNotLast),
            ("/halley.meta/{appid}/{server}", Reserved),
        ] {
            assert_eq!(text.parse::<Layout>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_node_without_a_region_has_no_key() {
        let goim = Layout::default();
        for (region, zone) in [("", "sh001"), ("sh/a", "sh001"), ("sh", "sh\n001")] {
            let node = Node { region: region.to_owned(), zone: zone.to_owned(), ..comet() };
            assert!(goim.key(&node).is_err(), "{region:?} {zone:?}");
        }
    }
}
