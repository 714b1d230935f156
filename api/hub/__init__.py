"""The hub over HTTP: routes parse, call one method of HubService, and print."""
