//! Routers in maintenance on the dashboard, in a real browser.

use super::dashboard::{accessible, open, says, text};
use crate::support::chromium::Chromium;
use crate::support::{Backend, Gateway};

#[test]
#[ignore = "needs Chromium"]
fn the_page_of_a_router_says_that_it_is_in_maintenance() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    closed: {{rule: 'Host(`h`)', service: a, maintenance: {{allow: [10.0.0.0/8, 192.0.2.7]}}}}
    open: {{rule: 'Host(`open`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for (router, is_said) in [("closed@file", true), ("open@file", false)] {
        open(&mut browser, &base, &format!("/http/routers/{router}"));
        let page = text(&mut browser);
        assert_eq!(page.contains("in maintenance"), is_said, "{page}");
        assert_eq!(
            page.contains("by its configuration, except for 10.0.0.0/8, 192.0.2.7"),
            is_said,
            "{page}"
        );
        accessible(&mut browser, router);
    }
    open(&mut browser, &base, "/explain?url=http%3A%2F%2Fh%2F&entryPoint=web");
    browser.until(&says("The router is in maintenance."));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
