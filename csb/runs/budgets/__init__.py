"""All methods on one problem at equal network passes and at equal seconds: csb compare."""
