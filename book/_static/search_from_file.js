// A page opened from a disk may not read its neighbours, so there the search lists titles without the text around a hit.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
