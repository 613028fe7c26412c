use super::*;
use crate::account::fixture;

#[tokio::test]
async fn an_organization_must_stand_in_a_header_as_it_is() {
    for (value, fits) in [("acme", true), ("a c", true), (" acme", false), ("acme\t", false), ("a\nb", false), ("a\u{7f}", false)]
    {
        let mut config = fixture::config();
        config.accounts[0].organization = Source::Value(Secret::from(value));
        let sources = Sources::new(Arc::new(config), AccountId(0)).unwrap();
        let organization = sources.organization().await;
        assert_eq!(organization.is_ok(), fits, "{value:?}");
        if let Err(error) = organization {
            assert_eq!(error, SourceError { which: Field::Organization, fault: SourceFault::NotAHeader });
        }
    }
}

#[tokio::test]
async fn an_error_names_its_source_and_what_to_do() {
    let mut config = fixture::config();
    if let Some(login) = &mut config.accounts[0].login {
        login.password = Source::File("/nonexistent/password".into());
    }
    let sources = Sources::new(Arc::new(config), AccountId(0)).unwrap();
    let error = sources.credentials(sources.login().unwrap()).await.err().unwrap();
    let text = "password: /nonexistent/password does not exist; it is watched, and used as soon as it appears";
    assert_eq!(error.to_string(), text);
    assert_eq!(sources.seen().last(Field::Password), Reading::Nothing);
    assert_eq!(sources.seen().last(Field::Username), Reading::Never, "only files are noted");
}
