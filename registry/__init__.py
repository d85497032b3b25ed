"""What has been learned and what is in service, as files: adapters, manifests, router snapshots."""
