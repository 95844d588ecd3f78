"""The presence of this file lets every folder of tests import `closed_form`."""
